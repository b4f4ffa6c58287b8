"""Results of several seeds -> a mean with its interval, and the cell of a table that says it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

Results = dict[str, dict[str, Any]]  # by job


class Mean(NamedTuple):
    """A mean over seeds, half the width of its 95 % interval (Student's t), and how many seeds.

    Of fewer than three seeds there is no interval: that of two is 13 times their spread.
    """

    value: float
    half: float
    seeds: int

    @classmethod
    def of(cls, values: Iterable[float]) -> Mean | None:
        from scipy.stats import t

        found = list(values)
        n = len(found)
        if not n:
            return None
        mean = sum(found) / n
        if n < 3:
            return cls(mean, math.nan, n)
        spread = math.sqrt(sum((value - mean) ** 2 for value in found) / (n - 1))
        return cls(mean, float(t.ppf(0.975, n - 1)) * spread / math.sqrt(n), n)

    @property
    def is_apart(self) -> bool:
        """Whether the interval excludes zero."""
        return self.half < abs(self.value)


def number(mean: Mean | None, places: int = 3) -> str:
    """`0.953 ± 0.012`; of few seeds without an interval, and nothing where there is none."""
    if mean is None:
        return "-"
    half = "" if math.isnan(mean.half) else f" ± {mean.half:.{places}f}"
    return f"{mean.value:.{places}f}{half}"


def difference(mean: Mean | None, places: int = 3) -> str:
    """`+0.012 ± 0.008`, in bold where the interval excludes zero."""
    if mean is None:
        return "-"
    text = f"{mean.value:+.{places}f}" + (
        "" if math.isnan(mean.half) else f" ± {mean.half:.{places}f}"
    )
    return f"**{text}**" if mean.is_apart else text


def percent(mean: Mean | None) -> str:
    """`59 ± 4 %`."""
    if mean is None:
        return "-"
    half = "" if not mean.half >= 0.005 else f" ± {100 * mean.half:.0f}"
    return f"{100 * mean.value:.0f}{half} %"


def share(mean: Mean | None) -> str:
    """A small share: `0 %`, `0.3 %`, `15 %`."""
    if mean is None:
        return "-"
    return f"{100 * mean.value:.2g} %" if mean.value else "0 %"


def seeds_of(results: Results, case: str) -> dict[int, dict[str, Any]]:
    """The results of one case by seed; a case is a job without its seed."""
    found = {}
    for name, entry in results.items():
        kind, _, seed = name.rpartition("|")
        if kind == case:
            found[int(seed)] = entry
    return found


def over_seeds(
    results: Results, case: str, value: Callable[[dict[str, Any]], float | None]
) -> Mean | None:
    """The mean of a value over the seeds of a case."""
    values = (value(entry) for entry in seeds_of(results, case).values())
    return Mean.of(v for v in values if v is not None)


def paired(
    results: Results, case: str, other: str, value: Callable[[dict[str, Any]], float]
) -> Mean | None:
    """The mean difference of two cases, seed by seed."""
    ours, theirs = seeds_of(results, case), seeds_of(results, other)
    return Mean.of(value(ours[s]) - value(theirs[s]) for s in ours if s in theirs)
