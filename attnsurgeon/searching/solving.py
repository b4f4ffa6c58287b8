"""Values, prices and limits -> the best set: an integer programme, solved by HiGHS through scipy.

What the best set is, in this order: it is worth most; of these, most of it is of the mechanisms
that were named first; of these it is the cheapest, by the shares of the limits that it uses; of
these it is at the earliest sites. Each is a programme of its own, with what came before held fast.
Values are whole numbers and prices of counts exact, so that what the solver answers within its
tolerances is looked at again without any.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

from attnsurgeon.errors import UsageError

_SECONDS = 20.0  # of one programme; far more than any network so far has needed
_AGAIN = 50  # sets that the solver takes for possible and that are not, by a hair
_NEAR = Fraction(1, 10**6)  # shares of a limit that are taken for the same
_UNITS = 10**6  # in which prices are compared

Set = tuple[int, ...]


@dataclass(frozen=True)
class Resource:
    """What a limit is on.

    Attributes:
        name: the field of a budget: "params", "macs", "activations" or "latency".
        uses: what each candidate takes of it.
        room: how much of it there is.
    """

    name: str
    uses: tuple[float, ...]
    room: Fraction

    def used(self, chosen: Sequence[int]) -> Fraction:
        """What a set takes."""
        return sum((Fraction(self.uses[i]) for i in chosen), Fraction(0))


@dataclass(frozen=True)
class Problem:
    """What is to be chosen.

    Attributes:
        values: what each candidate is worth, from 0.
        ranks: of each, 0 for the mechanism that was named first.
        resources: the limits.
        apart: sets of which at most one may be chosen.
        alike: sets of candidates, in order, that stand for one another with all that is at their
            sites, as rows of alternatives: ((a, b), (c, d)) where c is to its site what a is to its
            own.
        never: sets that are none, whatever their prices say.
    """

    values: tuple[int, ...]
    ranks: tuple[int, ...]
    resources: tuple[Resource, ...]
    apart: tuple[frozenset[int], ...]
    alike: tuple[tuple[Set, ...], ...] = ()
    never: tuple[Set, ...] = ()

    def worth(self, chosen: Sequence[int]) -> int:
        """What a set is worth."""
        return sum(self.values[i] for i in chosen)

    def keeps(self, chosen: Sequence[int]) -> bool:
        """Whether a set is within every limit, without any tolerance."""
        return tuple(chosen) not in self.never and all(
            one.used(chosen) <= one.room for one in self.resources
        )

    def share(self, chosen: Sequence[int]) -> Fraction:
        """The largest share of a limit that a set uses; of those that leave room."""
        shares = (one.used(chosen) / one.room for one in self.resources if one.room > 0)
        return max(shares, default=Fraction(0))


@dataclass(frozen=True)
class Solution:
    """A set, by its candidates' places; `proven` unless time ran out before it was the best."""

    chosen: Set
    proven: bool = True


@dataclass
class _Rows:
    """Constraints low <= row * x <= high; `upper` is 0 for what fits in no set."""

    upper: list[float]
    rows: list[list[float]] = field(default_factory=list)
    low: list[float] = field(default_factory=list)
    high: list[float] = field(default_factory=list)

    def add(self, row: Sequence[float], low: float, high: float) -> None:
        self.rows.append(list(row))
        self.low.append(low)
        self.high.append(high)


def best(problem: Problem) -> Solution | None:
    """Returns the best set within the limits, None where not even the empty set is.

    Raises:
        UsageError: scipy is missing.
    """
    rows = _rows(problem)
    solution: Solution | None = None
    proven = True
    for objective in _objectives(problem):
        found = _solve(objective, rows, problem.keeps)
        if found is None:
            break
        solution, proven = Solution(found.chosen), proven and found.proven
        if not found.proven:
            break
        reached = sum(objective[i] for i in found.chosen)
        rows.add(objective, reached - 0.5, float("inf"))
    return None if solution is None else replace(solution, proven=proven)


def front(problem: Problem, points: int = 12) -> list[Set]:
    """Returns sets of which none is worth more for no larger share of the limits, smallest first.

    Args:
        problem: its limits are the unit; sets beyond them are looked for as well.
        points: sets to look for, at even steps of what is worth most.
    """
    free = replace(problem, resources=tuple(r for r in problem.resources if r.room > 0), never=())
    most = best(replace(free, resources=()))
    if not free.resources or most is None or not problem.worth(most.chosen):
        return []
    found: list[Set] = []
    top = problem.worth(most.chosen)
    for step in range(1, points + 1):
        target = -(-top * step // points)
        if not found or problem.worth(found[-1]) < target:  # else it is the cheapest here as well
            found.append(_cheapest(free, target, most.chosen))
    kept: list[Set] = []
    for one in sorted(found, key=lambda one: (free.share(one), -problem.worth(one))):
        if not kept or problem.worth(one) > problem.worth(kept[-1]):
            kept.append(one)
    return kept


def _cheapest(problem: Problem, target: int, known: Set) -> Set:
    """The set that is worth so much for the least share of the limits; of these what is worth most.

    Args:
        problem: with limits that leave room.
        target: what it is worth at least.
        known: a set that is.
    """
    least = known
    for _ in range(_AGAIN):
        # The solver's tolerances are absolute: shares are measured by the least that is known.
        within = problem.share(least)
        if within <= 0:
            break
        found = _least_share(replace(problem, resources=_times(problem.resources, within)), target)
        if found is None or problem.share(found) > within * (1 - _NEAR):
            break
        least = found
    again = best(replace(problem, resources=_times(problem.resources, problem.share(least))))
    return least if again is None else again.chosen


def _least_share(problem: Problem, target: int) -> Set | None:
    """A set that is worth so much for the least share of the limits, if that is at most all of
    them; as far as the solver sees. The share is one more variable, behind the candidates.
    """
    rows = _rows(problem, extra=1)
    for one in problem.resources:
        rows.add([*_scaled(one, rows.upper), -1.0], -float("inf"), 0.0)
    rows.add([*problem.values, 0.0], target - 0.5, float("inf"))
    found = _solve([0.0] * len(problem.values) + [-1.0], rows, None, continuous=1)
    return None if found is None else found.chosen


def _times(resources: Sequence[Resource], factor: Fraction) -> tuple[Resource, ...]:
    return tuple(replace(one, room=one.room * factor) for one in resources)


def _objectives(problem: Problem) -> Iterator[list[float]]:
    """Yields what is to be as much as can be, in this order; whole numbers all."""
    count = len(problem.values)
    yield [float(value) for value in problem.values]
    ranks = sorted(set(problem.ranks))
    for rank in ranks[:-1]:
        yield [float(problem.values[i] if problem.ranks[i] == rank else 0) for i in range(count)]
    prices = [
        sum(round(_UNITS * Fraction(one.uses[i]) / abs(one.room or 1)) for one in problem.resources)
        for i in range(count)
    ]
    yield [-float(min(price, 10**9)) for price in prices]
    yield [-float(i + 1) for i in range(count)]


def _rows(problem: Problem, extra: int = 0) -> _Rows:
    count = len(problem.values)
    rows = _Rows([*map(float, _fits(problem)), *[float("inf")] * extra])

    def row(weights: dict[int, float]) -> list[float]:
        return [weights.get(i, 0.0) for i in range(count + extra)]

    for group in problem.apart:
        rows.add(row(dict.fromkeys(group, 1.0)), 0.0, 1.0)
    for alike in problem.alike:
        for one, following in itertools.pairwise(alike):
            # Of sites that are alike, those first that get the mechanism which comes first.
            most = len(one)
            weights = {i: float(most - at) for at, i in enumerate(one)}
            weights |= {i: float(at - most) for at, i in enumerate(following)}
            rows.add(row(weights), 0.0, float("inf"))
    for resource in problem.resources:
        room = float(resource.room / _scale(resource))
        rows.add([*_scaled(resource, rows.upper), *[0.0] * extra], -float("inf"), room)
    return rows


def _fits(problem: Problem) -> list[bool]:
    """Of each candidate whether it is within the limits with all that takes off."""
    fits = [True] * len(problem.values)
    for one in problem.resources:
        off = sum(min(Fraction(0), Fraction(use)) for use in one.uses)
        for i, use in enumerate(one.uses):
            if Fraction(use) + off - min(Fraction(0), Fraction(use)) > one.room:
                fits[i] = False
    return fits


def _scale(resource: Resource) -> Fraction:
    """What the prices of a resource are divided by: the solver's tolerances are absolute."""
    largest = max((abs(Fraction(use)) for use in resource.uses), default=Fraction(0))
    return abs(resource.room) or largest or Fraction(1)


def _scaled(resource: Resource, upper: Sequence[float]) -> list[float]:
    """The prices as the solver gets them; of what fits in no set, which may be huge, none."""
    scale = _scale(resource)
    return [
        float(Fraction(use) / scale) if most else 0.0
        for use, most in zip(resource.uses, upper, strict=False)
    ]


def _solve(
    objective: Sequence[float],
    rows: _Rows,
    keeps: Callable[[Set], bool] | None,
    *,
    continuous: int = 0,
) -> Solution | None:
    """Returns the set with the largest sum of the objective, or None where there is none."""
    numpy, optimize = _scipy()
    count = len(objective) - continuous
    bounds = optimize.Bounds(0, rows.upper)
    whole = numpy.array([1] * count + [0] * continuous)
    for _ in range(_AGAIN):
        constraints = (
            [optimize.LinearConstraint(numpy.array(rows.rows), rows.low, rows.high)]
            if rows.rows
            else []
        )
        answer: Any = optimize.milp(
            -numpy.array(objective),
            integrality=whole,
            bounds=bounds,
            constraints=constraints,
            options={"mip_rel_gap": 0.0, "time_limit": _SECONDS},
        )
        if answer.x is None:
            return None
        chosen = tuple(i for i in range(count) if answer.x[i] > 0.5)
        if keeps is None or keeps(chosen):
            return Solution(chosen, answer.status == 0)
        # Beyond a limit by less than the solver's tolerance: this one set is none.
        never = [1.0 if i in chosen else -1.0 for i in range(count)] + [0.0] * continuous
        rows.add(never, -float("inf"), len(chosen) - 1.0)
    return None


def _scipy() -> tuple[Any, Any]:
    try:
        import numpy
        from scipy import optimize
    except ImportError as error:
        raise UsageError(
            "the search needs scipy, which solves it", 'pip install "attnsurgeon[suggest]"'
        ) from error
    return numpy, optimize
