"""Sites written by hand, so that rules are tested without a network."""

from __future__ import annotations

from typing import Any

from attnsurgeon.rules.match import RuleMatches, match_rules
from attnsurgeon.rules.where import resolve_where
from attnsurgeon.sites.site import ModuleRef, Site


def site(path: str, *roles: str, **fields: Any) -> Site:
    """Returns a site with plain values for all that a test does not name."""
    plain: dict[str, Any] = {
        "owner": path.rpartition(".")[0],
        "type": "Conv2d",
        "channels": 67,
        "shape": (2, 67, 29, 23),
        "layout": "NCHW",
        "stride": 8.0,
        "stage": 2,
        "block": None,
    }
    return Site(path=path, roles=frozenset(roles), **{**plain, **fields})


def modules(*refs: tuple[str, str]) -> tuple[ModuleRef, ...]:
    """Returns modules from (path, type) pairs."""
    return tuple(ModuleRef(path, type_) for path, type_ in refs)


def matching(matcher: dict[str, Any], *sites: Site) -> RuleMatches:
    """Returns what a rule with this matcher does with the sites."""
    (found,) = match_rules(resolve_where(matcher), sites)
    return found


def taken(matcher: dict[str, Any], *sites: Site) -> list[str]:
    """Returns the paths that a matcher takes."""
    return [one.path for one in matching(matcher, *sites).sites]


def reason(matcher: dict[str, Any], *sites: Site) -> str:
    """Returns why the first site is left."""
    answers = {refusal.site.path: refusal.reason for refusal in matching(matcher, *sites).refusals}
    return answers[sites[0].path]
