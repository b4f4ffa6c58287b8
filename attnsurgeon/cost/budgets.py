"""`+2%`, `+0.5M`, `30M` -> limits on what surgery may cost, held against a Cost.

A limit with a sign is on the change (`+2%` of the figure before, `+0.5M` more than before, `-1%`
less); one without is on the figure after. Counts take k, M, G and T, latency s, ms and us.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

from attnsurgeon.cost.comparing import Cost
from attnsurgeon.cost.timing import Latency
from attnsurgeon.errors import CheckFailed, UsageError

# Fractions, because 2.05 * 1e6 is less than 2,050,000.
_COUNTS = {unit: Fraction(1000) ** power for power, unit in enumerate(("", "k", "m", "g", "t"))}
_TIMES = {unit: Fraction(1, 1000) ** power for power, unit in enumerate(("s", "ms", "us"))}
_TEXT = re.compile(
    r"([+-]?)(\d{1,15}\.?\d{0,15}|\.\d{1,15})\s*(%|[a-z]*)", re.ASCII | re.IGNORECASE
)
_HEAVIEST = 3


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


@dataclass(frozen=True)
class Budget:
    """Limits on parameters, MACs and latency; None does not limit."""

    max_params: Limit | None = None
    max_macs: Limit | None = None
    max_latency: Limit | None = None

    @classmethod
    def parse(
        cls,
        *,
        max_params: str | None = None,
        max_macs: str | None = None,
        max_latency: str | None = None,
    ) -> Budget:
        """Reads the limits as a user writes them.

        Raises:
            UsageError: one of them is no limit.
        """
        return cls(
            None if max_params is None else parse_budget(max_params, name="max_params"),
            None if max_macs is None else parse_budget(max_macs, name="max_macs"),
            None if max_latency is None else parse_budget(max_latency, name="max_latency"),
        )


def parse_budget(text: str, *, name: str = "max_params") -> Limit:
    """Reads one limit.

    Args:
        text: `+2%`, `+0.5M`, `30M`; for latency `+5%`, `+0.5ms`, `20ms`.
        name: which limit it is, a field of `Budget`.

    Raises:
        UsageError: the text is no limit.
    """
    units = _TIMES if name == "max_latency" else _COUNTS
    example = "+5%, +0.5ms or 20ms" if name == "max_latency" else "+2%, +0.5M or 30M"
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


def check_budgets(cost: Cost, budget: Budget, *, latency: Latency | None = None) -> None:
    """Refuses a surgery that costs more than it may.

    Args:
        cost: of the surgery.
        budget: the limits.
        latency: measured, where the budget limits it.

    Raises:
        CheckFailed: names every limit that is exceeded, by how much, and the heaviest sites.
        UsageError: latency is limited and was not measured.
    """
    if budget.max_latency is not None and latency is None:
        raise UsageError("max_latency needs a measurement", "measure it: latency=...")
    broken = list(_broken(cost, budget, latency))
    if broken:
        hint = "take fewer sites, a lighter attention or a higher limit"
        if all("is undecided" in one for one in broken):
            hint = "measure where less else runs, or more pairs"
        raise CheckFailed("; ".join(broken), hint)


def is_decided(budget: Budget, latency: Latency) -> bool:
    """Tells whether the limit on latency lies outside of the interval that was measured."""
    if budget.max_latency is None:
        return True
    before = latency.before.median
    low, high = (before * ratio for ratio in latency.interval)
    return not low <= budget.max_latency.ceiling(before) < high


def _broken(cost: Cost, budget: Budget, latency: Latency | None) -> Iterator[str]:
    for field in ("params", "macs"):
        limit = getattr(budget, f"max_{field}")
        before, after = getattr(cost.before, field), getattr(cost.after, field)
        if limit is not None and after > limit.ceiling(before):
            change = _change(before, after)
            over = f"{math.ceil(after - limit.ceiling(before)):,} too many"
            what = f"{before:,} -> {after:,} {field} ({change}), {over}"
            yield f"max_{field} {limit.text} is exceeded: {what}{_heaviest(cost, field)}"
    if budget.max_latency is None or latency is None:
        return
    before, after = latency.before.median, latency.before.median * latency.ratio
    ceiling = budget.max_latency.ceiling(before)
    if not is_decided(budget, latency):
        low, high = (100 * (ratio - 1) for ratio in latency.interval)
        yield (
            f"max_latency {budget.max_latency.text} is undecided: {latency.repeats} pairs put the"
            f" change between {low:+.2f} and {high:+.2f} %"
        )
    elif after > ceiling:
        what = f"{before * 1e3:.2f} -> {after * 1e3:.2f} ms ({_change(before, after)})"
        over = f"{float(after - ceiling) * 1e3:.2f} ms too long"
        yield f"max_latency {budget.max_latency.text} is exceeded: {what}, {over}"


def _change(before: float, after: float) -> str:
    return f"{100 * (after - before) / before:+.2f} %" if before else f"from {before}"


def _heaviest(cost: Cost, field: str) -> str:
    heavy = sorted(cost.per_site, key=lambda site: getattr(site, field), reverse=True)
    named = [f"{s.site} {getattr(s, field):+,}" for s in heavy[:_HEAVIEST] if getattr(s, field) > 0]
    return f"; heaviest: {', '.join(named)}" if named else ""
