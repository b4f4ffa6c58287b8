"""`+2%`, `+0.5M`, `30M` -> limits on what surgery may cost, held against a Cost.

A limit with a sign is on the change (`+2%` of the figure before, `+0.5M` more than before, `-1%`
less); one without is on the figure after. Counts take k, M, G and T, latency s, ms and us, memory
kB, MB, GB and TB, or KiB, MiB, GiB and TiB.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction

from attnsurgeon.cost.comparing import Cost
from attnsurgeon.cost.measured import Latency, Measurement
from attnsurgeon.errors import CheckFailed, UsageError
from attnsurgeon.shown import brief

# Fractions, because 2.05 * 1e6 is less than 2,050,000.
_COUNTS = {unit: Fraction(1000) ** power for power, unit in enumerate(("", "k", "m", "g", "t"))}
_TIMES = {unit: Fraction(1, 1000) ** power for power, unit in enumerate(("s", "ms", "us"))}
_SIZES = {
    **{f"{unit}b": factor for unit, factor in _COUNTS.items()},
    **{f"{unit}ib": Fraction(1024) ** power for power, unit in enumerate("kmgt", start=1)},
}
_TEXT = re.compile(
    r"([+-]?)(\d{1,15}\.?\d{0,15}|\.\d{1,15})\s*(%|[a-z]*)", re.ASCII | re.IGNORECASE
)
_HEAVIEST = 3
_LESS = "take fewer sites, a lighter attention or a higher limit"
_LONGER = "measure where less else runs, or longer: seconds=300"
_TRAINABLE = "give an input that it can be trained on alone, or no limit on memory"
_MEASURE = "measure it: measured=attnsurgeon.measure(...)"
_HINTS = (_LESS, _LONGER, _TRAINABLE)  # the first that is about what is broken
_UNITS = {  # of each limit, and how one is written
    "max_params": (_COUNTS, "+2%, +0.5M or 30M"),
    "max_macs": (_COUNTS, "+2%, +0.5M or 30M"),
    "max_activations": (_COUNTS, "+2%, +0.5M or 30M"),
    "max_latency": (_TIMES, "+5%, +0.5ms or 20ms"),
    "max_memory": (_SIZES, "+5%, +20MB or 1.5GB"),
}


@dataclass(frozen=True)
class Limit:
    """One bound: `amount`, of the change where `relative`, in percent of before where `percent`."""

    text: str
    amount: Fraction
    relative: bool
    percent: bool

    def ceiling(self, before: float) -> float | Fraction:
        """Returns the highest figure after surgery that keeps the limit."""
        if self.percent:
            return before * (1 + self.amount / 100)
        return before + self.amount if self.relative else self.amount


@dataclass(frozen=True, repr=False)
class Budget:
    """Limits; None does not limit.

    Attributes:
        max_params, max_macs, max_activations: on what is counted.
        max_latency: on the latency of a forward.
        max_memory: on the memory of a training step, beside the weights.
    """

    max_params: Limit | None = None
    max_macs: Limit | None = None
    max_latency: Limit | None = None
    max_memory: Limit | None = None
    max_activations: Limit | None = None

    def __repr__(self) -> str:
        said = [f"{name} {limit.text}" for name, limit in vars(self).items() if limit is not None]
        return brief(self, ", ".join(said) or "no limit")

    @classmethod
    def parse(
        cls,
        *,
        max_params: str | None = None,
        max_macs: str | None = None,
        max_latency: str | None = None,
        max_memory: str | None = None,
        max_activations: str | None = None,
    ) -> Budget:
        """Reads the limits as a user writes them.

        Raises:
            UsageError: one of them is no limit.
        """
        said = {
            "max_params": max_params,
            "max_macs": max_macs,
            "max_latency": max_latency,
            "max_memory": max_memory,
            "max_activations": max_activations,
        }
        given = {name: text for name, text in said.items() if text is not None}
        return cls(**{name: parse_budget(text, name=name) for name, text in given.items()})

    @property
    def counted(self) -> Budget:
        """The limits on what needs no measurement."""
        return replace(self, max_latency=None, max_memory=None)


def parse_budget(text: str, *, name: str = "max_params") -> Limit:
    """Reads one limit.

    Args:
        text: `+2%`, `+0.5M`, `30M`; for latency `+5%`, `+0.5ms`, `20ms`; for memory `+5%`,
            `+20MB`, `1.5GB`.
        name: which limit it is, a field of `Budget`.

    Raises:
        UsageError: the text is no limit.
    """
    units, example = _UNITS[name]
    match = _TEXT.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"{name}: {text!r} is no limit", f"write {example}")
    sign, number, unit = match.groups()
    if unit == "%" and not sign:
        raise UsageError(
            f"{name}: {text!r} does not say of what", f"write +{text.strip()} for the change"
        )
    if unit != "%" and unit.lower() not in units:
        raise UsageError(f"{name}: {text!r} has an unknown unit {unit!r}", f"write {example}")
    amount = Fraction(sign + number) * (1 if unit == "%" else units[unit.lower()])
    return Limit(text.strip(), amount, bool(sign), unit == "%")


def check_budgets(cost: Cost, budget: Budget, *, measured: Measurement | None = None) -> None:
    """Refuses a surgery that costs more than it may.

    Args:
        cost: of the surgery.
        budget: the limits.
        measured: what `measure` gives, where the budget limits latency or memory.

    Raises:
        CheckFailed: names every limit that is exceeded, by how much, and the heaviest sites; and
            those that cannot be shown to hold.
        UsageError: latency or memory is limited and was not measured.
    """
    forward = None if measured is None else measured.forward
    if budget.max_latency is not None and forward is None:
        raise UsageError("max_latency needs a measurement", _MEASURE)
    if budget.max_memory is not None and measured is None:
        raise UsageError("max_memory needs a measurement", _MEASURE)
    broken = list(_broken(cost, budget, measured))
    if broken:
        hint = next(hint for hint in _HINTS if any(hint == one for one, _ in broken))
        raise CheckFailed("; ".join(text for _, text in broken), hint)


def is_decided(budget: Budget, forward: Latency) -> bool:
    """Tells whether the limit on latency lies outside of the interval that was measured."""
    if budget.max_latency is None:
        return True
    if not forward.has_interval:
        return False
    before = forward.before.median
    low, high = before * forward.ratio.low, before * forward.ratio.high
    return not low <= budget.max_latency.ceiling(before) < high


def _broken(cost: Cost, budget: Budget, measured: Measurement | None) -> Iterator[tuple[str, str]]:
    """What helps, and which limit does not hold by how much."""
    for field in ("params", "macs", "activations"):
        limit = getattr(budget, f"max_{field}")
        figures = getattr(cost.before, field), getattr(cost.after, field)
        if limit is not None and (said := _too_many(limit, *figures, field)):
            yield _LESS, f"max_{field} {said}{_heaviest(cost, field)}"
    if measured is None:
        return
    limit, forward = budget.max_latency, measured.forward
    if limit is not None and forward is not None:
        if not is_decided(budget, forward):
            low, high = (100 * (ratio - 1) for ratio in (forward.ratio.low, forward.ratio.high))
            change = f"{forward.pairs} pairs put the change between {low:+.2f} and {high:+.2f} %"
            yield _LONGER, f"max_latency {limit.text} is undecided: {change}"
        elif said := _too_long(limit, forward):
            yield _LESS, f"max_latency {said}"
    limit, memory = budget.max_memory, measured.memory
    if limit is None:
        return
    if memory is None:
        yield _TRAINABLE, f"max_memory {limit.text} is undecided: no training step, {measured.why}"
    elif said := _too_many(limit, memory.before, memory.after, "bytes"):
        yield _LESS, f"max_memory {said}"


def _too_many(limit: Limit, before: int, after: int, what: str) -> str | None:
    ceiling = limit.ceiling(before)
    if after <= ceiling:
        return None
    over = f"{math.ceil(after - ceiling):,} too many"
    change = _change(before, after)
    return f"{limit.text} is exceeded: {before:,} -> {after:,} {what} ({change}), {over}"


def _too_long(limit: Limit, forward: Latency) -> str | None:
    before, after = forward.before.median, forward.before.median * forward.ratio.median
    ceiling = limit.ceiling(before)
    if after <= ceiling:
        return None
    over = f"{float(after - ceiling) * 1e3:.2f} ms too long"
    change = _change(before, after)
    what = f"{before * 1e3:.2f} -> {after * 1e3:.2f} ms ({change})"
    return f"{limit.text} is exceeded: {what}, {over}"


def _change(before: float, after: float) -> str:
    return f"{100 * (after - before) / before:+.2f} %" if before else f"from {before}"


def _heaviest(cost: Cost, field: str) -> str:
    heavy = sorted(cost.per_site, key=lambda site: getattr(site, field), reverse=True)
    named = [f"{s.site} {getattr(s, field):+,}" for s in heavy[:_HEAVIEST] if getattr(s, field) > 0]
    return f"; heaviest: {', '.join(named)}" if named else ""
