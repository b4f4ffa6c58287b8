"""Network + mechanisms + budgets -> Suggestion: candidates, values, the best set, what it costs."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from torch import nn

from attnsurgeon.cost.budgets import Budget
from attnsurgeon.cost.comparing import Cost
from attnsurgeon.errors import CheckFailed, UsageError
from attnsurgeon.given import takes_networks
from attnsurgeon.grid.cells import Cell, cells_of
from attnsurgeon.models.own_attention import Attention
from attnsurgeon.operate import plan_rules, weigh_plan
from attnsurgeon.planning.plan import Plan
from attnsurgeon.recording.ambient import known_state
from attnsurgeon.rules.narrowing import Narrowing
from attnsurgeon.rules.schema import RuleFile
from attnsurgeon.rules.where import Where, require_listed
from attnsurgeon.searching.candidates import Candidate, Found, find_candidates
from attnsurgeon.searching.choosing import COUNTS, Times, choose, cost_of, problem_of
from attnsurgeon.searching.features import WHOLE, shares, weights_of
from attnsurgeon.searching.latencies import Clock, Timed
from attnsurgeon.searching.rulefile import rules_of
from attnsurgeon.searching.solving import Problem, Set, front
from attnsurgeon.searching.suggestion import Point, Suggestion
from attnsurgeon.searching.trial import RATE, SEEDS, STEPS, Lessons, Loss, Trial, run_trial
from attnsurgeon.sites.analysis import analyse
from attnsurgeon.sites.survey import Survey
from attnsurgeon.sizes import InputSize

DEFAULT = ("cbam", "se", "eca")  # from what does most to what costs least
ROUNDS = 3  # sets that are measured as a whole before it is left undecided

Tell = Callable[[str, int, int], None]


def _silent(_what: str, _done: int, _of: int) -> None:
    """Tells nobody."""


@dataclass(frozen=True)
class Wish:
    """What a search is for.

    Attributes:
        cells: mechanisms at placements, in the order in which they are preferred.
        budget: the limits.
        limits: their texts.
        init: how attention starts.
        weights: stage -> how much it counts.
    """

    cells: tuple[Cell, ...]
    budget: Budget
    limits: Mapping[str, str]
    init: str = "identity"
    weights: Mapping[int, float] | None = None


@known_state()
def wish_of(
    attn: Attention | Sequence[Attention] = DEFAULT,
    where: Where | Sequence[Where | None] | None = None,
    *,
    limits: Mapping[str, str | None],
    init: str = "identity",
    narrow: Narrowing | None = None,
    weights: Mapping[int, float] | None = None,
    trust: bool = False,
) -> Wish:
    """Returns what a call asks for; needs no network.

    Args:
        attn, where, init, narrow, trust: as for `cells_of`; mechanisms in the order in which they
            are preferred.
        limits: `max_params` and so on, as a user writes them.
        weights: see `suggest`.

    Raises:
        UsageError: nothing limits, or a limit is none.
        MechanismError, RuleError: as for `plan`.
    """
    said = {name: text for name, text in limits.items() if text is not None}
    if not said:
        raise UsageError(
            "nothing limits the search, and without a limit everything is best",
            'give one: max_params="+1%"',
        )
    budget = Budget.parse(**said)
    cells = cells_of(attn, where, init=init, narrow=narrow, trust=trust)
    return Wish(cells, budget, said, init, weights)


@known_state(own_dice=False)  # nothing is timed or trained under a mode
def search(
    survey: Survey,
    wish: Wish,
    *,
    clock: Clock | None = None,
    trying: Callable[[Sequence[Candidate]], Trial] | None = None,
    tell: Tell = _silent,
) -> Suggestion:
    """Finds the best set within the limits.

    Args:
        survey: the network.
        wish: what is asked for.
        clock: measures latency; needed where that is limited.
        trying: trains candidates, where gains are to be measured.
        tell: is told (what, done, of how many).

    Raises:
        CheckFailed: nothing fits, or nothing gains.
        SurgeonError: nothing can be put in.
    """
    if wish.budget.max_latency is not None and clock is None:
        raise UsageError("max_latency needs a network with weights, to be measured")
    tell("weighing candidates", 0, 1)
    asked = [(cell.file, cell.asked is None) for cell in wish.cells]
    found = find_candidates(survey, asked, init=wish.init)
    candidates = found.candidates
    of_site = shares(candidates, wish.weights)
    features = [sum(of_site[site.path] for site in one.sites) for one in candidates]
    trial = None if trying is None else trying(candidates)
    values = features if trial is None else _by_gain(found, trial, wish.weights)
    times = None
    if clock is not None:
        times = Times(clock.alone().before, clock.each(candidates, tell))
    problem = problem_of(candidates, values, found.before, wish.budget, times)
    made = _decided(problem, found, wish, clock, times, tell)
    tell("finding what else there is", 0, 1)
    sets = front(problem)
    worth = _whole(values, problem)
    chosen = tuple(sorted((candidates[i] for i in made.set), key=lambda c: c.sites[0].index))
    total = sum(of_site.values())
    return Suggestion(
        chosen, made.plan, made.cost, made.rules,
        _points(sets, made.set, problem, candidates, worth, times),
        found, problem.worth(made.set) / worth,
        sum(features[i] for i in made.set) / total if total else 0.0,
        wish.budget, wish.limits, made.additive, made.proven,
        None if times is None else sum(times.each[i] for i in made.set),
        made.latency, made.verdict, made.rounds, trial,
    )  # fmt: skip


@dataclass(frozen=True)
class _Made:
    """A set as it was decided: planned, weighed and measured as a whole."""

    set: Set
    proven: bool
    plan: Plan
    cost: Cost
    rules: RuleFile
    additive: bool
    latency: Timed | None
    verdict: str
    rounds: int


def _decided(
    problem: Problem,
    found: Found,
    wish: Wish,
    clock: Clock | None,
    times: Times | None,
    tell: Tell,
) -> _Made:
    """Solves, looks at the whole, and where that breaks a limit solves again with less room."""
    budget = wish.budget
    made: _Made | None = None
    for number in range(1, ROUNDS + 1):
        tell("choosing", number - 1, ROUNDS)
        try:
            solution = choose(problem, found.candidates, budget)
        except CheckFailed:
            if made is None:
                raise
            break
        chosen = [found.candidates[i] for i in solution.chosen]
        rules = rules_of(chosen, wish.init)
        plan = plan_rules(found.survey, rules, init=wish.init, where="suggested")
        cost = weigh_plan(plan)
        parts = cost_of(found.candidates, solution.chosen)
        additive = all(getattr(parts, name) == getattr(cost.delta, name) for name in COUNTS)
        measured, verdict = None, ""
        over = [
            name
            for name in COUNTS
            if (limit := getattr(budget, f"max_{name}")) is not None
            and getattr(cost.after, name) > limit.ceiling(getattr(cost.before, name))
        ]
        if clock is not None and not over:
            tell("measuring the whole", number - 1, ROUNDS)
            measured = clock.whole(plan, budget)
            verdict = measured.verdict(budget)
        made = _Made(
            solution.chosen, solution.proven, plan, cost, rules, additive, measured, verdict, number
        )
        if over:
            problem = dataclasses.replace(problem, never=(*problem.never, solution.chosen))
        elif verdict == "broken" and times is not None and measured is not None:
            problem = _tightened(problem, solution.chosen, measured)
        else:
            return made
    assert made is not None
    if made.verdict != "broken":
        raise UsageError(
            "the prices of sites do not add up here, and no set was found within the limits",
            "fewer mechanisms or placements to choose from, or a higher limit",
        )
    return dataclasses.replace(made, verdict="undecided")


def _tightened(problem: Problem, chosen: Set, measured: Timed) -> Problem:
    """Leaves less room for latency: as much less as the whole took more than its parts."""
    resources = []
    for one in problem.resources:
        if one.name == "latency":
            added = Fraction(measured.after - measured.before)
            estimated = one.used(chosen)
            factor = estimated / added if added > 0 and estimated > 0 else Fraction(1, 2)
            one = dataclasses.replace(one, room=one.room * min(factor, Fraction(9, 10)))
        resources.append(one)
    return dataclasses.replace(problem, resources=tuple(resources), never=(*problem.never, chosen))


def _by_gain(found: Found, trial: Trial, weights: Mapping[int, float] | None) -> list[int]:
    """What candidates are worth by what they gained, in millionths of all gains."""
    sites = {site.path: site for one in found.candidates for site in one.sites}
    weigh = weights_of(sites, weights)
    gains = [
        Fraction(max(0.0, tried.mean)) * sum(weigh[s.stage] for s in one.sites) / len(one.sites)
        for one, tried in zip(found.candidates, trial.tried, strict=True)
    ]
    total = sum(gains)
    return [round(WHOLE * gain / total) if total else 0 for gain in gains]


def _whole(values: Sequence[int], problem: Problem) -> int:
    """What is worth most if nothing limits."""
    from attnsurgeon.searching.solving import best

    most = best(dataclasses.replace(problem, resources=(), never=()))
    return max(1, problem.worth(most.chosen) if most is not None else 0)


def _points(
    sets: Iterable[Set],
    chosen: Set,
    problem: Problem,
    candidates: Sequence[Candidate],
    whole: int,
    times: Times | None,
) -> tuple[Point, ...]:
    def point(one: Set) -> Point:
        return Point(
            len({site.path for i in one for site in candidates[i].sites}),
            problem.worth(one) / whole,
            float(problem.share(one)),
            cost_of(candidates, one),
            None if times is None else sum(times.each[i] for i in one),
            one == chosen,
        )

    points = [point(one) for one in dict.fromkeys([*sets, chosen])]
    return tuple(sorted(points, key=lambda one: (one.worth, one.used)))


@takes_networks()
def suggest(
    model: nn.Module,
    attn: Attention | Sequence[Attention] = DEFAULT,
    where: Where | Sequence[Where | None] | None = None,
    *,
    max_params: str | None = None,
    max_macs: str | None = None,
    max_activations: str | None = None,
    max_latency: str | None = None,
    weights: Mapping[int, float] | None = None,
    init: str = "identity",
    input_size: InputSize | None = None,
    example: Any = None,
    at: str | Sequence[str] | None = None,
    stage: Any = None,
    channels: Any = None,
    every: int | None = None,
    data: Iterable[Any] | None = None,
    loss: Loss | None = None,
    steps: int = STEPS,
    seeds: int = SEEDS,
    rate: float = RATE,
    journal: str | Path | None = None,
    batch: int = 1,
    threads: int | None = None,
    progress: Tell | None = None,
    trust: bool = False,
) -> Suggestion:
    """Finds which mechanism goes to which sites within limits; the network is not changed.

    Without data the best set is that which gates most of the network's features, where those of a
    site are channels times positions, by those of its stage, and stages count alike. Among sets
    that gate as much, it is the one with most of the mechanisms named first, then the cheapest,
    then the one at the earliest sites. With data it is the set whose measured gains have the
    largest sum.

    Args:
        model: any network; on the meta device where neither latency nor data are asked for.
        attn: a mechanism, or several in the order in which they are preferred: as for `compare`,
            with arguments (`"se(reduction=8)"`) or wildcards.
        where: a placement, or a list of such; default: each paper's own.
        max_params, max_macs, max_activations, max_latency: limits such as "+1%", "+0.5M", "30M";
            of latency "+5%", "+0.5ms", "20ms". At least one.
        weights: stage -> how much it counts; 1 where nothing is said.
        init, input_size, example, at, stage, channels, every, trust: as for `plan`.
        data: batches that each candidate is trained on, alone and for a few steps, with the
            backbone standing still: (images, labels), or what `loss` takes. At most 64 are read,
            and every fourth of them judges.
        loss: (network, batch) -> a scalar; default: cross entropy.
        steps, seeds, rate: of the training: steps of AdamW, how many seeds, the learning rate.
        journal: file that keeps what has been trained, so that a broken call goes on.
        batch, threads: images of a forward that is timed, and CPU threads.
        progress: is told (what, done, of how many).

    Raises:
        CheckFailed: nothing fits the limits; it names the cheapest there is.
        UsageError: there is no limit, or scipy is missing: `pip install "attnsurgeon[suggest]"`.
        MechanismError, RuleError, ModelError: as for `plan`.
    """
    limits = {
        "max_params": max_params,
        "max_macs": max_macs,
        "max_activations": max_activations,
        "max_latency": max_latency,
    }
    narrow = Narrowing.of(at, stage, channels, every)
    wish = wish_of(
        attn, where, limits=limits, init=init, narrow=narrow,
        weights=weights, trust=trust,
    )  # fmt: skip
    lessons = None if data is None else Lessons.of(data, loss)
    with known_state():
        survey = analyse(model, input_size, example)
    for cell in wish.cells:
        require_listed(cell.asked, survey.sites)
    tell = progress or _silent
    clock = None
    if max_latency is not None:
        clock = Clock(model, survey, batch=batch, threads=threads)
    trying = None
    if lessons is not None:
        options = {"steps": steps, "seeds": seeds, "rate": rate, "journal": journal, "tell": tell}
        trying = functools.partial(run_trial, model, lessons=lessons, **options)
    return search(survey, wish, clock=clock, trying=trying, tell=tell)
