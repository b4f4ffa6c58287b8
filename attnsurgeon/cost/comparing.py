"""Two Weights and the sites between them -> Cost: the difference, and each site's share of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from attnsurgeon.cost.operators import is_per_element
from attnsurgeon.cost.weight import Count, Weight
from attnsurgeon.errors import UsageError
from attnsurgeon.shown import Shown, brief


@dataclass(frozen=True, repr=False)
class Delta:
    """What surgery adds to a network; negative where it takes away.

    Attributes:
        params, macs, activations: differences, as in `Count`.
        params_percent, macs_percent, activations_percent: of the figure before, None where it is 0.
    """

    params: int
    macs: int
    activations: int
    params_percent: float | None
    macs_percent: float | None
    activations_percent: float | None

    def __repr__(self) -> str:
        shares = [self.params_percent, self.macs_percent, self.activations_percent]
        percents = ["" if share is None else f" ({share:+.2g} %)" for share in shares]
        figures = (self.params, self.macs, self.activations)
        return brief(
            self, _figures(*(f"{n:+,}{p}" for n, p in zip(figures, percents, strict=True)))
        )


@dataclass(frozen=True, repr=False)
class SiteCost:
    """What surgery at one site adds; what it replaced there is taken off.

    The sites of a plan add up to the difference of the whole, in each of the three figures, unless
    one cut lies in a module that another works in, where both count what is inside. Of independent
    cuts each also costs alone what it costs among the others, so that a choice among the sites of a
    plan costs their sum. Not independent are the links of a chain of linked attention, whose first
    bears the parameters that all run and each of which sees what came before, and the sites that
    one module serves: a choice takes all of these or none.

    Attributes:
        site: path of the site.
        module_path: path of the inserted module; where several sites run the same module, the
            first bears its parameters and each the calls it makes.
        params, macs, activations: as in `Count`.
    """

    site: str
    module_path: str
    params: int
    macs: int
    activations: int

    def __repr__(self) -> str:
        figures = _figures(*(f"{n:+,}" for n in (self.params, self.macs, self.activations)))
        return brief(self, f"{self.site}: {figures}")


@dataclass(frozen=True, repr=False)
class Cost(Shown):
    """What a network weighs before and after surgery.

    Attributes:
        before: the network as it was given.
        after: the network operated on, on the same inputs.
        per_site: one entry a cut, in the order of the plan.
    """

    before: Weight
    after: Weight
    per_site: tuple[SiteCost, ...]

    @property
    def delta(self) -> Delta:
        """What the surgery adds."""
        pairs = [
            (getattr(self.before, name), getattr(self.after, name))
            for name in ("params", "macs", "activations")
        ]
        differences = [after - before for before, after in pairs]
        percents = [_percent(before, after) for before, after in pairs]
        return Delta(*differences, *percents)

    @property
    def uncounted(self) -> Mapping[str, int]:
        """Operator -> calls in the network after surgery that have no price."""
        return self.after.uncounted

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the figures has to know, each note once."""
        return tuple(dict.fromkeys([*self.before.notes, *self.after.notes, *_beyond(self)]))


@dataclass(frozen=True)
class Surgery:
    """What was done at one site.

    Attributes:
        site: path of the site.
        module_path: path of the module inserted there.
        weighed: paths of the modules whose cost changed: that one, or the module that it stands
            in and those that went.
        counted: its parameters are those of an earlier site, and counted there.
    """

    site: str
    module_path: str
    weighed: tuple[str, ...]
    counted: bool = False


def compare(before: Weight, after: Weight, sites: Sequence[Surgery]) -> Cost:
    """Returns the cost of the surgery that lies between two weights.

    Args:
        before: of the network as it was given.
        after: of the network operated on, on the same inputs.
        sites: in execution order.

    Raises:
        UsageError: the network has no module at one of the paths.
    """
    unknown = [p for site in sites for p in site.weighed if p not in after.by_module]
    if unknown:
        raise UsageError(
            f"no module of the network is at {unknown[0]!r}", "weigh the network after surgery"
        )
    sharing: dict[tuple[str, ...], list[int]] = {}
    for index, site in enumerate(sites):
        key = tuple(after.aliases.get(path, path) for path in site.weighed)
        sharing.setdefault(key, []).append(index)
    counts = [Count()] * len(sites)
    for paths, indices in sharing.items():
        for index, count in zip(indices, _shares(before, after, paths, len(indices)), strict=True):
            counts[index] = count
    return Cost(
        before,
        after,
        tuple(
            SiteCost(
                site.site,
                site.module_path,
                0 if site.counted else count.params,
                count.macs,
                count.activations,
            )
            for site, count in zip(sites, counts, strict=True)
        ),
    )


def _shares(before: Weight, after: Weight, paths: Sequence[str], sites: int) -> list[Count]:
    """Deals what the modules at `paths` cost more than before out to the sites that run them."""
    total = Count()
    for path in paths:
        total += after.by_module[path] - before.by_module.get(path, Count())
    calls = after.inserted.get(paths[0], ())
    if sites == 1 or not calls:
        return [total] + [Count()] * (sites - 1)
    shares = [Count(params=total.params)] + [Count()] * (sites - 1)
    for index, call in enumerate(calls):
        shares[index * sites // len(calls)] += call
    return shares


def _figures(params: str, macs: str, activations: str) -> str:
    return f"params {params}, macs {macs}, activations {activations}"


def _percent(before: int, after: int) -> float | None:
    return 100 * (after - before) / before if before else None


def _beyond(cost: Cost) -> list[str]:
    operators = sorted({**cost.before.beyond_fvcore, **cost.after.beyond_fvcore})
    products = [_PLAINLY.get(o, o) for o in operators if not is_per_element(o)]
    elements = [o for o in operators if is_per_element(o)]
    notes = []
    if products:
        notes.append(f"counted, though fvcore leaves it out: {', '.join(products)}")
    if elements:
        names = ", ".join(elements)
        notes.append(f"counted inside the inserted modules, one operation an element: {names}")
    return notes


_PLAINLY = {"conv": 'conv with padding="same"'}
