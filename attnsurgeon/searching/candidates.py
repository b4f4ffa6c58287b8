"""Survey + rules -> candidates: what a search may choose or leave, each with its own exact price.

A candidate is what cannot be taken apart: one cut with all the sites that its module serves, or a
whole chain of linked attention, whose links are built for each other. What candidates cost is
counted in one go, with all cuts of a rule in the network. Where their prices do not add up to that
of the whole (two modules of which one lies in the other), each candidate is weighed alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

from attnsurgeon.cost.weight import Count, Weight
from attnsurgeon.errors import CheckFailed, SurgeonError
from attnsurgeon.operate import plan_rules, weigh_plan
from attnsurgeon.planning.cut import Cut
from attnsurgeon.planning.plan import Plan
from attnsurgeon.rules.fields import Attn
from attnsurgeon.rules.placements import PAPER
from attnsurgeon.rules.schema import Rule, RuleFile
from attnsurgeon.shown import brief
from attnsurgeon.sites.site import Site
from attnsurgeon.sites.survey import Survey


@dataclass(frozen=True, repr=False, eq=False)
class Candidate:
    """One thing that may be put into a network, or left.

    Attributes:
        rule: the rule that takes its sites, with mechanism and start.
        plan: the plan with these cuts alone.
        cost: what it adds to the network.
        rank: 0 for a mechanism that was named first, 1 for the next.
    """

    rule: Rule
    plan: Plan
    cost: Count
    rank: int

    def __repr__(self) -> str:
        return brief(self, f"{self.key}: params {self.cost.params:+,}, macs {self.cost.macs:+,}")

    @property
    def cuts(self) -> tuple[Cut, ...]:
        """One cut, or the links of a chain."""
        return self.plan.cuts

    @cached_property
    def sites(self) -> tuple[Site, ...]:
        """Every site that it serves, in execution order."""
        served = [site for cut in self.cuts for site in (cut.site, *cut.shared)]
        return tuple(sorted(served, key=lambda site: site.index))

    @property
    def attn(self) -> str:
        """The mechanism, with the arguments that were asked for: `se(reduction=8)`."""
        return label(self.rule.attn)

    @property
    def key(self) -> str:
        """What it is called in a journal and in messages; no other of a network is called so."""
        rule = self.rule
        said = [rule.action, rule.scope, rule.init if rule.init == "paper" else None]
        more = f" ({', '.join(one for one in said if one)})" if any(said) else ""
        return f"{self.attn} at {self.sites[0].path}{more}"


@dataclass(frozen=True, repr=False)
class Found:
    """All candidates of a network.

    Attributes:
        candidates: by mechanism in the order in which they were named, then in execution order.
        before: what the network weighs.
        survey: the network.
        refused: (mechanism, site or "", reason) of what cannot be done.
    """

    candidates: tuple[Candidate, ...]
    before: Weight
    survey: Survey
    refused: tuple[tuple[str, str, str], ...]

    def __repr__(self) -> str:
        names = ", ".join(dict.fromkeys(one.attn for one in self.candidates))
        return brief(self, f"{len(self.candidates)} candidates: {names}")


def label(attn: Attn | None) -> str:
    """A mechanism with its arguments, in one word."""
    assert attn is not None, "a rule of `rules_for` names its mechanism"
    args = ", ".join(f"{name}={value}" for name, value in attn.args.items())
    return f"{attn.type}({args})" if args else attn.type


def find_candidates(
    survey: Survey, asked: Sequence[tuple[RuleFile, bool]], *, init: str = "identity"
) -> Found:
    """Plans and weighs every mechanism at all of its sites.

    Args:
        survey: the network.
        asked: rules of `rules_for`, in the order in which their mechanisms are preferred; and
            whether they are the mechanism's own placement, that nobody asked for.
        init: how what says nothing itself starts.

    Raises:
        SurgeonError: nothing can be put in anywhere: the first reason.
    """
    ranks: dict[str, int] = {}
    candidates: dict[tuple[object, ...], Candidate] = {}
    refused: list[tuple[str, str, str]] = []
    first: SurgeonError | None = None
    before: Weight | None = None
    for file, own in asked:
        for rule in file.rules:
            name = label(rule.attn)
            rank = ranks.setdefault(name, len(ranks))
            single = file.model_copy(update={"rules": (rule,)})
            try:
                made = plan_rules(survey, single, init=init, where=PAPER if own else rule.id)
            except CheckFailed:  # the rule says how many sites it must take
                raise
            except SurgeonError as error:
                first = first or error
                refused.append((name, "", error.what))
                continue
            refused += [(name, one.site.path, one.reason) for one in made.refused]
            before, priced = _priced(made)
            for plan, cost in priced:
                one = Candidate(rule, plan, cost, rank)
                start = rule.init or init
                same = name, start, rule.action, rule.scope, *(s.path for s in one.sites)
                candidates.setdefault(same, one)
    if before is None:
        assert first is not None, "rules that take nothing say why"
        raise first
    ordered = sorted(candidates.values(), key=lambda one: (one.rank, one.sites[0].index))
    return Found(tuple(ordered), before, survey, tuple(dict.fromkeys(refused)))


def exclusions(candidates: Sequence[Candidate]) -> tuple[frozenset[int], ...]:
    """Returns sets of candidates of which at most one can be chosen: those that share a site, and
    pairs of which one takes away what the other works in.
    """
    at: dict[str, set[int]] = {}
    for index, one in enumerate(candidates):
        for site in one.sites:
            at.setdefault(site.path, set()).add(index)
    sets = {frozenset(group) for group in at.values() if len(group) > 1}
    removing = [i for i, one in enumerate(candidates) if any(cut.removes for cut in one.cuts)]
    for i in removing:
        for j, other in enumerate(candidates):
            if i != j and _takes_away(candidates[i], other):
                sets.add(frozenset((i, j)))
    heads = [i for i, one in enumerate(candidates) if any(c.card.kind == "head" for c in one.cuts)]
    sets |= {frozenset(pair) for pair in combinations(heads, 2)}
    kept = [one for one in sets if not any(one < other for other in sets)]
    return tuple(sorted(kept, key=sorted))


def _takes_away(first: Candidate, second: Candidate) -> bool:
    """Whether the first removes a module that the second stands in, or works on."""
    gone = [path for cut in first.cuts for path in cut.removes]
    used = [cut.place.host for cut in second.cuts]
    used += [site.path.partition(":")[0] for site in second.sites]
    used += [path for cut in second.cuts for path in cut.removes]
    return any(path == there or path.startswith(f"{there}.") for path in used for there in gone)


def _priced(made: Plan) -> tuple[Weight, list[tuple[Plan, Count]]]:
    """What the network weighs, and each part of a plan that stands alone with what it costs."""
    cost = weigh_plan(made)
    shares = iter(cost.per_site)
    by_cut = [
        (cut, sum((_count(next(shares)) for _ in (cut.site, *cut.shared)), Count()))
        for cut in made.cuts
    ]
    parts = [
        (dataclasses.replace(made, cuts=tuple(cut for cut, _ in unit), refused=()), sum(
            (count for _, count in unit), Count()))
        for unit in _units(by_cut)
    ]  # fmt: skip
    if sum((count for _, count in parts), Count()) == _count(cost.delta):
        return cost.before, parts
    return cost.before, [(plan, _count(weigh_plan(plan).delta)) for plan, _ in parts]


def _units(by_cut: Sequence[tuple[Cut, Count]]) -> Iterator[list[tuple[Cut, Count]]]:
    """Yields the cuts that go together: the links of a chain, else each alone."""
    chains: dict[str, list[tuple[Cut, Count]]] = {}
    for cut, count in by_cut:
        if cut.chain:
            chains.setdefault(cut.chain, []).append((cut, count))
    for cut, count in by_cut:
        if not cut.chain:
            yield [(cut, count)]
        elif cut.link == 0:
            yield chains[cut.chain]


def _count(figures: object) -> Count:
    return Count(*(getattr(figures, name) for name in ("params", "macs", "activations")))


def by_path(candidates: Sequence[Candidate]) -> Mapping[str, Site]:
    """Every site that a candidate serves, by its path, in execution order."""
    found = {site.path: site for one in candidates for site in one.sites}
    return dict(sorted(found.items(), key=lambda item: item[1].index))
