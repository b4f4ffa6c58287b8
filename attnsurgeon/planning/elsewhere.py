"""A mechanism whose own placement takes nothing in a network -> a placement that does, counted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attnsurgeon.attention.arguments import checked
from attnsurgeon.attention.registry import Mechanism, lookup
from attnsurgeon.errors import MechanismError, RuleError, SurgeonError
from attnsurgeon.planning.plan import Request, plan_requests
from attnsurgeon.rules.match import match_rules
from attnsurgeon.rules.placements import shipped
from attnsurgeon.sites.survey import Survey

# Placements in order of nearness; of those in one group it is the one that cuts the most.
_CONVOLUTIONS = (("conv3x3", "depthwise"), ("conv",))
_BRANCHES = (("residual-branch", "block-branch"), ("stage",), *_CONVOLUTIONS)
_BLOCKS = (("residual-block", "block"), ("stage", "decoder"), *_CONVOLUTIONS)
_NEAR: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "block": _BLOCKS,
    "residual-block": _BLOCKS,
    "early-stage-block": (("stage-block",), *_BLOCKS),
    "downsample": (("stage",), *_BRANCHES),
    "head": (("stage",), *_BRANCHES),
    "block-conv": _CONVOLUTIONS,
    "block-conv3x3": _CONVOLUTIONS,
    "conv3x3": _CONVOLUTIONS,
    "conv": _CONVOLUTIONS,
    "late-activation": (("activation",),),
    "residual-add": (("residual-add",),),
    "late-residual-add": (("residual-add",),),
    "classifier": (),
    "later-skip": (("skip",),),
}


def nothing_here(
    survey: Survey, name: str, attn_args: Mapping[str, Any], init: str
) -> SurgeonError:
    """Returns the error of a mechanism whose own placement has no site in this network, or of
    arguments with which it has none anywhere.
    """
    card = lookup(name)
    try:
        checked(card.build, attn_args)
    except MechanismError as error:
        return MechanismError(f"{name}: {error.what}", error.hint)
    message = shipped(card.placement).rules[0].message or ""
    what = message[:1].lower() + message[1:].rstrip(".")
    said = f"{name}'s own placement is {what}; this network has none"
    found = _elsewhere(survey, card, attn_args, init)
    if found is None:
        none = "no other placement takes it here"
        return RuleError(
            said,
            f"{none}; attnsurgeon.find_sites(model) lists the sites",
            command=f"{none}; `attnsurgeon inspect` lists the sites",
        )
    return RuleError(said, f"try {_in_python(*found)}")


def with_another(
    error: SurgeonError, survey: Survey, name: str, attn_args: Mapping[str, Any], init: str
) -> SurgeonError:
    """Returns the error of a mechanism that is refused at all sites of its own placement, with
    a placement at which it is not, where there is one.
    """
    found = _elsewhere(survey, lookup(name), attn_args, init)
    if found is None:
        return error
    place, count = found
    before = f"{error.hint}; or " if error.hint else ""
    return type(error)(
        error.what,
        f"{before}try {_in_python(place, count)}",
        command=f"{error.command}; or try --where {place} ({_sites(count)})"
        if error.command
        else None,
    )


def _in_python(place: str, count: int) -> str:
    return f"where={place!r} ({_sites(count)})"


def _sites(count: int) -> str:
    return "1 site" if count == 1 else f"{count} sites"


def _elsewhere(
    survey: Survey, card: Mechanism, attn_args: Mapping[str, Any], init: str
) -> tuple[str, int] | None:
    """The nearest placement at which the mechanism can be cut in, and at how many sites."""
    for group in _NEAR.get(card.placement, _BRANCHES):
        counts = {
            place: _cut_at(survey, place, card, attn_args, init)
            for place in group
            if place != card.placement
        }
        best = max(counts, key=lambda place: counts[place], default=None)
        if best is not None and counts[best]:
            return best, counts[best]
    return None


def _cut_at(
    survey: Survey, place: str, card: Mechanism, attn_args: Mapping[str, Any], init: str
) -> int:
    """How many sites of a placement can be cut; 0 where none can."""
    (found,) = match_rules(shipped(place), survey.sites)
    requests = [Request(place, site, card.name, attn_args, "", init) for site in found.sites]
    try:
        made = plan_requests(survey, requests, attn=card.name, where=place, init=init)
    except SurgeonError:
        return 0
    return sum(1 + len(cut.shared) for cut in made)
