"""Operated network and an input -> what every site did to this input, as named tensors."""

from __future__ import annotations

import contextlib
import inspect
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from attnsurgeon.attention.heads.tapped import Tapped
from attnsurgeon.attention.identity import Blend, BlendOld, BlendPair
from attnsurgeon.attention.linked.dca import Blended
from attnsurgeon.attention.own.applied import Applied
from attnsurgeon.attention.pictures import AS_SEEN, Seen
from attnsurgeon.attention.registry import Mechanism, lookup
from attnsurgeon.errors import MechanismError, ModelError, UsageError
from attnsurgeon.looking.following import Following
from attnsurgeon.looking.positions import Row, row_at
from attnsurgeon.looking.watching import factors_of, refuse_replicas, run_once, watched
from attnsurgeon.recording.examples import arguments_of
from attnsurgeon.recording.record import MARK
from attnsurgeon.shown import brief
from attnsurgeon.splicing.history import history
from attnsurgeon.splicing.selecting import Chosen, chosen, cuts_of, operated_in
from attnsurgeon.splicing.switching import is_off

_BLENDS = (Blend, BlendOld, BlendPair, Blended, Applied)


@dataclass(frozen=True, eq=False, repr=False)
class SiteGates(Mapping[str, Tensor]):
    """What one inserted attention did to one input; a mapping of its pictures by their names.

    Attributes:
        site: path of the site; of a later run of a module that runs several times, that of the
            further site that it serves.
        module_path: where the module is.
        mechanism: its name.
        kind: of the mechanism: "gate", "conv", "weight", "activation", "fusion", "linked", "head".
        pictures: name -> tensor, as `attnsurgeon.attention.pictures.PICTURES` has them: the
            mechanism's own first, `blend` and `change` last. Detached, and in no memory of the
            network's.
        resolution: (H, W) of the map at the site; (L,) of a signal, or of tokens whose map is not
            known, (D, H, W) of a clip; () where there is no map.
        off: it is switched off (`attnsurgeon.disabled`), so that there are no pictures.
    """

    site: str
    module_path: str
    mechanism: str
    kind: str
    pictures: Mapping[str, Tensor] = field(default_factory=dict)
    resolution: tuple[int, ...] = ()
    off: bool = False

    def __getitem__(self, name: str) -> Tensor:
        return self.pictures[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.pictures)

    def __len__(self) -> int:
        return len(self.pictures)

    def __repr__(self) -> str:
        shown = (f"{name} {tuple(picture.shape)}" for name, picture in self.pictures.items())
        return brief(
            self, f"{self.site}: {self.mechanism}, {'off' if self.off else ', '.join(shown)}"
        )


class Gates(Mapping[str, SiteGates]):
    """What every site did, in the order in which they ran.

    The keys are the paths of the inserted modules, which are unique (`layer1.0.attn`; of a second
    run of the same module `layer1.0.attn#2`). The path of a site (`layer1.0.bn3`) finds it as well
    where one attention alone stands there.

    Attributes:
        dead: the paths of the modules that were asked for and did not run.
    """

    def __init__(self, found: Mapping[str, SiteGates], dead: Sequence[str] = ()) -> None:
        self._found = dict(found)
        self.dead = tuple(dead)

    def __getitem__(self, path: str) -> SiteGates:
        if path in self._found:
            return self._found[path]
        there = [site for site in self._found.values() if site.site == path]
        if len(there) != 1:
            raise KeyError(path)
        return there[0]

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)

    def __repr__(self) -> str:
        lines = [repr(site) for site in self._found.values()]
        lines += [f"{path}: did not run" for path in self.dead]
        return "\n".join(lines)


def gates(
    model: nn.Module,
    x: Any,
    *,
    sites: Chosen = None,
    position: Sequence[float] | None = None,
) -> Gates:
    """Runs a network once and says what every site did to this input.

    The network runs in the mode that it is in, in the caller's autocast, and without gradients. Its
    modules are watched from outside: their code is what it is without, and afterwards nothing is
    left of it. Buffers that training mode changes are set back, and what is drawn meanwhile comes
    from other dice than the program's.

    Args:
        model: an operated network, or what stands around it.
        x: its input, a tensor; or what its forward is called with, as an example of `find_sites`.
        sites: as for `remove`: paths, patterns, Sites; None for all.
        position: of the picture `attention`: whose it is, as fractions of the axes, so that it
            means the same at every resolution; None for the centre, (0.5, 0.5).

    Returns:
        Of each module that ran what it did, by its path, in the order of their runs.

    Raises:
        UsageError: there is no attention in the network, or none is called that; or the position
            is none.
        ModelError: the network cannot be run on this input; or what a site did is not a number.
    """
    refuse_replicas(model)
    at = _checked(position)
    watchers = [_Watcher(*asked, at) for asked in _asked(model, sites)]
    found: list[tuple[str, SiteGates]] = []
    with contextlib.ExitStack() as watching:
        for watcher in watchers:
            watcher.found = found
            watching.enter_context(watched(watcher.runs, watcher.note))
        run_once(model, arguments_of(x, model), lambda: _begin(found, watchers))
    ran = {site.module_path for _, site in found}
    return Gates(dict(found), [w.path for w in watchers if w.path not in ran])


def _asked(
    model: nn.Module, sites: Chosen
) -> Iterator[tuple[str, str, Mapping[str, Any], nn.Module]]:
    """Yields of each module that is asked for the prefix of the network that was operated, the path
    in it, the record of the cut and the module. One network has no prefix, wherever it stands.
    """
    operated_in(model)  # which says what to do where there is none
    hosts = [(path, module) for path, module in model.named_modules() if history(module)]
    unknown: UsageError | None = None
    taken = False
    for where, network in hosts:
        try:
            paths = chosen(network, sites)
        except UsageError as error:
            unknown = error
            continue
        taken = True
        prefix = f"{where}." if where and len(hosts) > 1 else ""
        cuts = cuts_of(network)
        yield from ((prefix, path, cuts[path], _part(network, path)) for path in paths)
    if unknown is not None and not taken:
        raise unknown


def _begin(found: list[tuple[str, SiteGates]], watchers: Sequence[_Watcher]) -> None:
    found.clear()
    for watcher in watchers:
        watcher.count = 0


class _Watcher:
    """Looks at one inserted module while it runs."""

    def __init__(
        self,
        prefix: str,
        path: str,
        cut: Mapping[str, Any],
        part: nn.Module,
        position: tuple[float, ...] | None,
    ) -> None:
        self.path = prefix + path
        self.sites = [prefix + site for site in (cut["path"], *cut["shared"])]
        self.cut = cut
        self.card = _card(cut["attn"])
        unknown = "fusion" if cut["action"] == "fuse" else "gate"
        self.kind = self.card.kind if self.card is not None else unknown
        self.off = is_off(part)
        # A head is handed its maps inside the module that was inserted.
        self.runs = part.head if isinstance(part, Tapped) and not self.off else part
        self.part = part
        self.position = position
        self.count = 0
        self.found: list[tuple[str, SiteGates]] = []

    def note(self, given: tuple[Tensor, ...], made: Any, following: Following) -> None:
        """Writes down what a run did."""
        self.count += 1
        site = self.sites[min(self.count, len(self.sites)) - 1]
        path = self.path if self.count == 1 else f"{self.path}#{self.count}"
        row = None if self.off else row_at(given[0], self.cut, vars(self.part)[MARK].beside)
        pictures = {} if self.off else self.pictures(site, given, made, following)
        resolution = () if self.off else self.resolution(given, row)
        if row is not None:
            pictures = row.arranged(pictures)
        self.found.append(
            (
                path,
                SiteGates(
                    site,
                    self.path,
                    self.cut["attn"],
                    self.kind,
                    {name: picture.detach().clone() for name, picture in pictures.items()},
                    resolution,
                    self.off,
                ),
            )
        )

    def pictures(
        self, site: str, given: tuple[Tensor, ...], made: Any, following: Following
    ) -> dict[str, Tensor]:
        """Returns what a run did, its maps as the module has them."""
        card = self.card
        seen = Seen(
            _mechanism(self.runs, card),
            given,
            made,
            factors_of(following, given, made),
            following.results,
            self.position,
        )
        picture = card.picture if card is not None else AS_SEEN
        pictures = dict(picture.read(seen))
        blends = [m.g for m in self.runs.modules() if isinstance(m, _BLENDS) and m.g is not None]
        if blends:
            pictures["blend"] = blends[0].reshape(())
        if (old := self.old(given)) is not None:
            pictures["change"] = _change(old, made, of_weight=self.kind == "weight")
        for name, tensor in pictures.items():
            if bool(tensor.isnan().any()):
                raise self.not_a_number(site, name, given)
        return pictures

    def old(self, given: tuple[Tensor, ...]) -> Tensor | None:
        """Returns what would go on without the site; None where that is no longer computed."""
        if self.cut["action"] == "fuse":
            return given[0] + given[1]
        if isinstance(self.runs, BlendOld):
            return given[-1]
        first = self.card.inputs(self.cut["args"])[0] if self.card is not None else "value"
        gone = self.cut["action"] == "replace" and first not in ("weight", "logits")
        return None if gone else given[0]

    def resolution(self, given: tuple[Tensor, ...], row: Row | None) -> tuple[int, ...]:
        """Returns the sides of the map at the site."""
        if self.kind == "weight" or given[0].dim() < 3:
            return ()
        return row.sides if row is not None else tuple(given[0].shape[2:])

    def not_a_number(self, site: str, name: str, given: tuple[Tensor, ...]) -> ModelError:
        """Returns the error for NaN in a picture, with where it comes from."""
        what = f"{self.cut['attn']} at {site}: its {name} holds NaN"
        wrong = [n for n, p in self.part.named_parameters() if not bool(p.isfinite().all())]
        if not all(bool(value.isfinite().all()) for value in given):
            return ModelError(
                f"{what}, and so does what reaches it",
                "look at the input, and at the layers ahead of it",
            )
        if wrong:
            return ModelError(
                f"{what}, for its {wrong[0]} is not finite", "train with a lower rate"
            )
        return ModelError(what, "run it in float32, where nothing overflows")


def _change(old: Tensor, made: Any, *, of_weight: bool) -> Tensor:
    """Returns |made - old| / |old| of each sample, (N,); 0 where nothing changed."""
    difference = made[1] if isinstance(made, tuple) else made.to(old.dtype) - old
    if of_weight:  # one weight for all images, or one for each
        old = old[None]
        difference = difference if difference.dim() == old.dim() else difference[None]
    size, moved = (torch.linalg.vector_norm(z.flatten(1), dim=1) for z in (old, difference))
    return torch.where(moved == 0, torch.zeros_like(moved), moved / size)


def _card(name: str) -> Mechanism | None:
    try:
        return lookup(name)
    except MechanismError:  # code that nobody has named in this process; the module is there
        return None


def _mechanism(runs: nn.Module, card: Mechanism | None) -> nn.Module:
    """The mechanism itself, inside what blends it in."""
    if card is None or not inspect.isclass(card.build):
        return runs
    return next((m for m in runs.modules() if isinstance(m, card.build)), runs)


def _part(network: nn.Module, path: str) -> nn.Module:
    try:
        part = network.get_submodule(path)
    except AttributeError:
        part = None
    found = None if part is None else next((m for m in part.modules() if MARK in vars(m)), None)
    if found is None:
        what = "nothing" if part is None else f"a {type(part).__name__}"
        raise UsageError(
            f"where the attention {path} was, there is {what}",
            "`attnsurgeon.audit` says what has become of the inserted modules",
        )
    return found


def _checked(position: Sequence[float] | None) -> tuple[float, ...] | None:
    if position is None:
        return None
    try:
        found = tuple(float(value) for value in position)
    except (TypeError, ValueError):
        found = ()
    if not found or not all(math.isfinite(value) and 0 <= value <= 1 for value in found):
        raise UsageError(
            f"position={position!r} is not a position",
            "give a fraction of each axis, from 0 to 1: position=(0.5, 0.5) is the centre",
        )
    return found
