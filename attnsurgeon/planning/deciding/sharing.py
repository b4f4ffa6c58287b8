"""A module that runs several times: one cut serves all its runs, or none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from attnsurgeon.attention.registry import Mechanism
from attnsurgeon.planning.cut import Cut, Refused, Request
from attnsurgeon.planning.deciding.asked import Asked
from attnsurgeon.planning.deciding.operand import Value
from attnsurgeon.planning.place import Place
from attnsurgeon.sites.survey import Survey
from attnsurgeon.sites.tokens import Tokens


def serving(asked: Asked, place: Place) -> Cut | None:
    """The cut, if one is there already, that is to serve this run of a shared host, too."""
    if place.calls == 1 and not place.moved:
        return None
    wanted = (place, asked.request.rule, asked.card.name)
    return next((c for c in asked.earlier if (c.place, c.rule, c.attn) == wanted), None)


def apart(survey: Survey, cut: Cut, card: Mechanism, value: Value, args: Mapping[str, Any]) -> str:
    """Why a cut cannot serve one more run of its host; "" if it can."""
    host = cut.place.host
    if cut.channels != value.channels:
        return f"{host} is shared and has {cut.channels} channels in another run"
    first = survey.nodes[cut.site.path].meta["shape"]
    if cut.tokens != value.tokens and (cut.as_map or _beside(cut.tokens) != _beside(value.tokens)):
        return f"{host} is shared, and in another run its tokens stand otherwise"
    tied = [name for name in args if args[name] != cut.attn_args.get(name)]
    if tied or (first[1:] != value.node.meta["shape"][1:] and not card.resolution_free):
        names = f", by its {' and '.join(tied)}" if tied else ""
        free = " and ".join(n for n in ("eca", "se") if n != card.name)
        return (
            f"{host} runs {cut.place.calls} times in one forward, at several resolutions, and "
            f"{card.name} is tied to one{names}; {free} are tied to none"
        )
    return ""


def joined(cut: Cut, request: Request) -> Cut:
    """The cut, serving one more run of its host."""
    return replace(cut, shared=(*cut.shared, request.site))


def half_shared(cuts: list[Cut], torn: Mapping[str, str]) -> tuple[list[Cut], list[Refused]]:
    """Divides cuts into those that serve all runs of their hosts and the refusals of the others.

    Args:
        cuts: all of them.
        torn: host -> why its runs cannot share one cut, where that was said.
    """
    whole: list[Cut] = []
    refused: list[Refused] = []
    for cut in cuts:
        served = 1 + len(cut.shared)
        if cut.place.calls <= served:
            whole.append(cut)
            continue
        reason = torn.get(cut.place.host) or (
            f"{cut.place.host} runs {cut.place.calls} times in one forward and only "
            f"{served} of its runs {'was' if served == 1 else 'were'} matched; one cut serves all"
            " of them, so match "
            f"{cut.site.path.partition('#')[0]!r} and its later runs, '...#2' and on"
        )
        refused += [Refused(site, cut.rule, reason) for site in (cut.site, *cut.shared)]
    return whole, refused


def _beside(tokens: Tokens | None) -> tuple[int, int]:
    return (tokens.before, tokens.after) if tokens is not None else (0, 0)
