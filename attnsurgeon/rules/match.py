"""Rules + Sites -> for every rule the sites it takes, and for every other site the reason.

All rules see the same sites: those of the network before any surgery.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from attnsurgeon.errors import CheckFailed, RuleError
from attnsurgeon.rules.describe import listed, name_of
from attnsurgeon.rules.filters import Clock, Scene, misses
from attnsurgeon.rules.schema import Rule, RuleFile, RuleMatcher
from attnsurgeon.sites.site import Site

_SHOWN = 3  # candidates in an error


@dataclass(frozen=True)
class Match:
    """A rule takes this site."""

    site: Site


@dataclass(frozen=True)
class Refusal:
    """A rule leaves this site, because of the first filter that it does not pass."""

    site: Site
    reason: str


@dataclass(frozen=True)
class RuleMatches:
    """What one rule does with every site of a network.

    Attributes:
        rule: the rule.
        sites: those it takes, in execution order.
        refusals: the others, in execution order.
        scene: what the matching looked at.
    """

    rule: Rule
    sites: tuple[Site, ...]
    refusals: tuple[Refusal, ...]
    scene: Scene = field(repr=False)

    def explain(self, path: str) -> Match | Refusal:
        """Returns why the site at `path` is taken or left; an unknown path raises `RuleError`."""
        if path not in self._answers:
            near = difflib.get_close_matches(path, self._answers, n=3)
            names = listed(repr(one) for one in near)
            hint = f"did you mean {names}?" if near else "`attnsurgeon inspect` lists the sites"
            raise RuleError(f"no site is called {path!r}", hint)
        return self._answers[path]

    @cached_property
    def _answers(self) -> Mapping[str, Match | Refusal]:
        taken = {site.path: Match(site) for site in self.sites}
        return taken | {refusal.site.path: refusal for refusal in self.refusals}

    def candidates(self) -> tuple[Refusal, ...]:
        """Returns the refused sites, those first that fail the fewest keys and fail last."""
        matcher, scene = self.rule.match, replace(self.scene, clock=Clock())

        def distance(refusal: Refusal) -> tuple[int, int]:
            return sum(1 for _ in misses(matcher, refusal.site, scene)), refusal.site.index

        return tuple(sorted(self.refusals, key=distance))


def match_rules(file: RuleFile, sites: Sequence[Site]) -> list[RuleMatches]:
    """Returns for every rule of `file`, in order, what it takes and leaves among `sites`.

    Counts are not checked here, so that a rule that matches nothing can be explained;
    `require_counts` does.
    """
    ordered = sorted(sites, key=lambda site: site.index)
    stages = [site.stage for site in ordered if site.stage is not None]
    scene = Scene({s.path: s for s in ordered}, file.define or {}, max(stages, default=None))
    return [_match(rule, ordered, scene) for rule in file.rules]


def require_counts(matches: Sequence[RuleMatches], notes: Sequence[str] = ()) -> None:
    """Refuses a rule that takes another number of sites than it expects, or none.

    Args:
        matches: what each rule takes.
        notes: what else is known of the network; joins the hint.

    Raises:
        CheckFailed: a count that the rule itself states is not met.
        RuleError: a rule that states no count takes nothing.
    """
    for found in matches:
        count, expect = len(found.sites), found.rule.expect
        if expect is None and count == 0:
            what = f"rule {found.rule.id!r} matches nothing in this network"
            raise RuleError(what, "; ".join([_nearest_candidates(found), *notes]))
        if expect is not None and not expect.count.holds(count):
            what = f"rule {found.rule.id!r} matches {count} sites, not {expect.count}"
            raise CheckFailed(what, "; ".join([_nearest_candidates(found), *notes]))


def _match(rule: Rule, ordered: Sequence[Site], scene: Scene) -> RuleMatches:
    left, reasons = [], {}
    for site in ordered:
        reason = _first_reason(rule.match, site, scene)
        if reason is None:
            left.append(site)
        else:
            reasons[site.path] = reason
    for position, site in enumerate(left, start=1):
        reason = _not_chosen(rule.match, position, len(left))
        if reason is not None:
            reasons[site.path] = reason
    return RuleMatches(
        rule,
        tuple(site for site in left if site.path not in reasons),
        tuple(Refusal(s, reasons[s.path]) for s in ordered if s.path in reasons),
        scene,
    )


def _first_reason(matcher: RuleMatcher, site: Site, scene: Scene) -> str | None:
    if matcher.predicate is not None:
        return None if matcher.predicate(site) else f"{name_of(matcher.predicate)} says no"
    return next(misses(matcher, site, scene), None)


def _not_chosen(matcher: RuleMatcher, position: int, count: int) -> str | None:
    """Returns why the `position`-th of the `count` sites left is not chosen, or None."""
    place = f"is number {position} of the {count} left"
    if matcher.nth is not None and not matcher.nth.holds(position):
        return f"{place}, not nth {matcher.nth}"
    if matcher.first is not None and position > matcher.first:
        return f"{place}, not among the first {matcher.first}"
    if matcher.last is not None and position <= count - matcher.last:
        return f"{place}, not among the last {matcher.last}"
    return None


def _nearest_candidates(found: RuleMatches) -> str:
    if not found.refusals:
        return "every site of this network matches" if found.sites else "this network has no sites"
    wanted = found.rule.match.site
    roles = {role for refusal in found.refusals for role in refusal.site.roles}
    if not found.sites and wanted and roles.isdisjoint(wanted):
        return f"no site plays that role here; roles found: {', '.join(sorted(roles)) or 'none'}"
    near = [f"{r.site.path} ({r.reason})" for r in found.candidates()[:_SHOWN]]
    more = len(found.refusals) - len(near)
    return f"nearest: {'; '.join(near)}" + (f"; {more} more refused" if more else "")
