"""The best set, against every subset there is."""

import itertools
import random
import sys
from fractions import Fraction

import pytest

from attnsurgeon.errors import UsageError
from attnsurgeon.searching.solving import Problem, Resource, best, front


def subsets(count):
    return itertools.chain.from_iterable(
        itertools.combinations(range(count), size) for size in range(count + 1)
    )


def possible(problem):
    """Every set that keeps all that a problem says, found by looking at each."""
    for one in subsets(len(problem.values)):
        apart = all(len(group.intersection(one)) <= 1 for group in problem.apart)
        within = all(sum(Fraction(r.uses[i]) for i in one) <= r.room for r in problem.resources)
        if apart and within and one not in problem.never:
            yield one


def worth(problem, one):
    return sum(problem.values[i] for i in one)


def preferred(problem, one):
    """What a set is compared by: its worth, then the worth of each rank, the first first."""
    ranks = sorted(set(problem.ranks))
    return worth(problem, one), *(
        sum(problem.values[i] for i in one if problem.ranks[i] == rank) for rank in ranks
    )


def share(problem, one):
    return max(sum(Fraction(r.uses[i]) for i in one) / r.room for r in problem.resources)


def random_problem(seed):
    """Sites with up to three alternatives each, prices and limits at random."""
    dice = random.Random(seed)
    sites = dice.randint(1, 4)
    values, ranks, apart, uses = [], [], [], [[], []]
    for _ in range(sites):
        here = dice.randint(1, 3)
        value = dice.randint(0, 40)
        apart.append(frozenset(range(len(values), len(values) + here)))
        for rank in range(here):
            values.append(value)
            ranks.append(rank)
            uses[0].append(dice.choice([0, 1, dice.randint(-5, 30), dice.randint(1, 10**9)]))
            uses[1].append(dice.uniform(-1e-4, 1e-2))
    rooms = [
        Fraction(dice.choice([0, -3, dice.randint(1, 60), dice.randint(1, 2 * 10**9)])),
        Fraction(dice.uniform(0, 2e-2)),
    ]
    resources = tuple(
        Resource(name, tuple(use), room)
        for name, use, room in zip(("params", "latency"), uses, rooms, strict=True)
    )
    if len(values) > 2 and dice.random() < 0.5:
        apart.append(frozenset(dice.sample(range(len(values)), 2)))
    wide = tuple(group for group in apart if len(group) > 1)
    return Problem(tuple(values), tuple(ranks), resources[: dice.randint(1, 2)], wide)


@pytest.mark.parametrize("seed", range(25))
def test_the_best_set_is_that_of_all_subsets(seed):
    problem = random_problem(seed)
    sets = list(possible(problem))
    found = best(problem)
    if not sets:
        assert found is None
        return
    assert found is not None
    assert found.proven
    assert found.chosen in sets
    assert preferred(problem, found.chosen) == max(preferred(problem, one) for one in sets)


@pytest.mark.parametrize("seed", range(12))
def test_no_set_is_worth_more_for_less_than_one_of_the_front(seed):
    problem = random_problem(100 + seed)
    roomy = tuple(
        Resource(r.name, tuple(abs(u) for u in r.uses), abs(r.room) or Fraction(7))
        for r in problem.resources
    )
    problem = Problem(problem.values, problem.ranks, roomy, problem.apart)
    free = Problem(problem.values, problem.ranks, (), problem.apart)
    every = list(possible(free))
    sets = front(problem, points=10)
    assert bool(sets) == any(problem.values)
    for one in sets:
        mine = share(problem, one), worth(problem, one)
        assert not [
            other
            for other in every
            if share(problem, other) < mine[0] * (1 - Fraction(1, 10**6))
            and worth(problem, other) >= mine[1]
        ]
        assert max(worth(problem, o) for o in every if share(problem, o) <= mine[0]) == mine[1]
    if sets:
        assert worth(problem, sets[-1]) == max(worth(problem, one) for one in every)


def knapsack(values, uses, room, **more):
    count = len(values)
    ranks = more.pop("ranks", (0,) * count)
    return Problem(values, ranks, (Resource("params", uses, Fraction(room)),), (), **more)


def test_a_limit_is_kept_to_the_last_unit():
    heavy = 10**9
    # The second set is one parameter in a thousand million too heavy, below any tolerance.
    assert best(knapsack((5, 4), (heavy, heavy - 1), heavy)).chosen == (0,)
    assert best(knapsack((5, 4), (heavy, heavy - 1), heavy - 1)).chosen == (1,)
    assert best(knapsack((5, 4), (heavy, heavy - 1), 2 * heavy - 1)).chosen == (0, 1)
    assert best(knapsack((5, 4), (heavy, heavy - 1), 2 * heavy - 2)).chosen == (0,)


def test_of_sets_that_are_worth_the_same_the_first_mechanism_then_the_cheapest_then_the_first():
    assert best(knapsack((5, 5), (9, 1), 9, ranks=(0, 1))).chosen == (0,)
    assert best(knapsack((5, 5), (9, 1), 8, ranks=(0, 1))).chosen == (1,)
    assert best(knapsack((5, 5), (9, 8), 9)).chosen == (1,)
    assert best(knapsack((5, 5, 5), (3, 3, 3), 6)).chosen == (0, 1)


def test_what_is_worth_nothing_is_left():
    assert best(knapsack((0, 5), (0, 1), 9)).chosen == (1,)


def test_sites_that_are_alike_are_taken_from_the_first_on_and_nothing_is_lost_by_that():
    groups = tuple(frozenset((i, i + 4)) for i in range(4))
    alike = (tuple((i, i + 4) for i in range(4)),)
    resource = (Resource("params", (5, 5, 5, 5, 2, 2, 2, 2), Fraction(12)),)
    args = (7,) * 8, (0,) * 4 + (1,) * 4, resource, groups
    told, untold = best(Problem(*args, alike)), best(Problem(*args))
    assert told is not None
    assert untold is not None
    assert told.chosen == (0, 5, 6, 7)  # 5 + 2 + 2 + 2 of 12
    assert preferred(Problem(*args), told.chosen) == preferred(Problem(*args), untold.chosen)


def test_a_set_that_is_none_is_passed_over():
    assert best(knapsack((5, 4), (1, 1), 1, never=((0,),))).chosen == (1,)
    assert best(knapsack((5, 4), (1, 1), 1, never=((0,), (1,)))).chosen == ()


def test_without_scipy_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(UsageError) as refused:
        best(knapsack((1,), (1,), 1))
    assert "attnsurgeon[suggest]" in str(refused.value)
