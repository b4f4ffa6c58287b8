"""Candidates + values + limits -> the problem that is solved, and the set that is chosen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from attnsurgeon.cost.budgets import Budget, Limit
from attnsurgeon.cost.weight import Count, Weight
from attnsurgeon.errors import CheckFailed
from attnsurgeon.searching.candidates import Candidate, exclusions
from attnsurgeon.searching.solving import Problem, Resource, Set, Solution, best

COUNTS = ("params", "macs", "activations")


@dataclass(frozen=True)
class Times:
    """Seconds, where latency is limited.

    Attributes:
        before: of a forward of the network as it is.
        each: what each candidate is estimated to add, from its modules measured alone.
        correction: what the sum of the estimates is multiplied by; 1 until a set was measured.
    """

    before: float
    each: tuple[float, ...]
    correction: float = 1.0


def problem_of(
    candidates: Sequence[Candidate],
    values: Sequence[int],
    before: Weight,
    budget: Budget,
    times: Times | None = None,
) -> Problem:
    """Returns what is to be solved.

    Args:
        candidates: of one network.
        values: of each, what it is worth.
        before: what the network weighs.
        budget: the limits.
        times: needed where latency is limited.
    """
    resources = [
        Resource(
            name,
            tuple(getattr(one.cost, name) for one in candidates),
            Fraction(limit.ceiling(getattr(before, name))) - getattr(before, name),
        )
        for name in COUNTS
        if (limit := getattr(budget, f"max_{name}", None)) is not None
    ]
    if budget.max_latency is not None:
        assert times is not None, "a limit on latency needs a measurement"
        room = Fraction(budget.max_latency.ceiling(times.before)) - Fraction(times.before)
        each = tuple(one * times.correction for one in times.each)
        resources.append(Resource("latency", each, room))
    apart = exclusions(candidates)
    ranks = tuple(one.rank for one in candidates)
    limits = tuple(resources)
    return Problem(tuple(values), ranks, limits, apart, _alike(candidates, values, limits, apart))


def choose(problem: Problem, candidates: Sequence[Candidate], budget: Budget) -> Solution:
    """Returns the best set within the limits.

    Raises:
        CheckFailed: nothing fits, with the cheapest that there is; or nothing is worth anything.
    """
    if not any(value > 0 for value in problem.values):
        raise CheckFailed(
            f"none of the {len(candidates)} candidates is worth anything",
            "other mechanisms or placements, more steps of the trial, or other weights",
        )
    found = best(problem)
    if found is None or not problem.worth(found.chosen):
        raise _nothing_fits(problem, candidates, budget)
    return found


def cost_of(candidates: Sequence[Candidate], chosen: Sequence[int]) -> Count:
    """The sum of the candidates' prices."""
    return sum((candidates[i].cost for i in chosen), Count())


def _nothing_fits(problem: Problem, candidates: Sequence[Candidate], budget: Budget) -> CheckFailed:
    """Says which candidate comes nearest, and what it would need."""

    def excess(index: int) -> Fraction:
        over = (
            (Fraction(one.uses[index]) - one.room) / (abs(one.room) or 1)
            for one in problem.resources
        )
        return max(over)

    worth = [i for i, value in enumerate(problem.values) if value > 0]
    nearest = min(worth, key=lambda i: (excess(i), i))
    needs = []
    for one in problem.resources:
        limit: Limit = getattr(budget, f"max_{one.name}")
        use, room = one.uses[nearest], one.room
        beyond = "" if use <= room else ", too many" if one.name != "latency" else ", too long"
        needs.append(
            f"max_{one.name} {limit.text} leaves {_amount(one.name, float(room))} and it adds"
            f" {_amount(one.name, use)}{beyond}"
        )
    return CheckFailed(
        f"nothing fits: the cheapest is {candidates[nearest].key}: {'; '.join(needs)}",
        "a higher limit, or a lighter attention",
    )


def _amount(name: str, value: float) -> str:
    return f"{1e3 * value:.3f} ms" if name == "latency" else f"{int(value):,} {name}"


def _alike(
    candidates: Sequence[Candidate],
    values: Sequence[int],
    resources: Sequence[Resource],
    apart: Sequence[frozenset[int]],
) -> tuple[tuple[Set, ...], ...]:
    """Sites that stand for one another, as rows of alternatives; see `Problem`.

    Of such sites a solver would try every selection; told which comes first, it tries one.
    """
    here: dict[str, list[int]] = {}
    for index, one in enumerate(candidates):
        if len(one.sites) == 1:
            here.setdefault(one.sites[0].path, []).append(index)
    at: dict[str, tuple[int, ...]] = {path: tuple(group) for path, group in here.items()}
    tied = Counter(i for group in apart for i in group)
    groups: dict[tuple[object, ...], list[Set]] = {}
    for group in at.values():
        if frozenset(group) not in apart and len(group) > 1:
            continue  # a candidate of several sites is at this one, too
        if any(tied[i] > (len(group) > 1) for i in group):
            continue
        signature = tuple(
            (candidates[i].rank, values[i], *(one.uses[i] for one in resources)) for i in group
        )
        groups.setdefault(signature, []).append(group)
    ordered = (sorted(g, key=lambda s: candidates[s[0]].sites[0].index) for g in groups.values())
    return tuple(tuple(group) for group in ordered if len(group) > 1)


def refusals(refused: Sequence[tuple[str, str, str]]) -> Mapping[str, list[tuple[str, str]]]:
    """Mechanism -> (site or "", reason) of what cannot be done."""
    found: dict[str, list[tuple[str, str]]] = {}
    for name, site, reason in refused:
        found.setdefault(name, []).append((site, reason))
    return found
