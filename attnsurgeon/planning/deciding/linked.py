"""Linked attention: a gate on a value that is also handed what the last one of its chain kept."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from attnsurgeon.planning.deciding import gates
from attnsurgeon.planning.deciding.asked import Asked, Draft
from attnsurgeon.planning.deciding.operand import Impossible


def decide(asked: Asked) -> Draft:
    """Decides where a link goes in, and which chain it is the next one of."""
    draft = gates.decide(asked)
    if draft.place.calls > 1:
        raise Impossible(f"{draft.place.host} runs several times in one forward, a chain once")
    scope = asked.request.scope or asked.card.scope
    chain = _chain(asked, scope, draft.value.channels)
    links = [cut for cut in asked.earlier if cut.chain == chain]
    facts: dict[str, Any] = {"previous_channels": links[-1].channels if links else None}
    if not links:
        facts["source_channels"] = _channels_of_source(asked)
    facts = {**draft.facts, **facts}
    return replace(draft, facts=facts, scope=scope, chain=chain, link=len(links))


def _chain(asked: Asked, scope: str, channels: int) -> str:
    """The name of the chain that a site belongs to."""
    parts = [asked.request.rule]
    if scope == "stage":
        stage = asked.request.site.stage
        if stage is None:
            raise Impossible("its stage is unknown, and attention is linked within a stage")
        parts.append(f"stage-{stage}")
    if asked.card.tied:
        parts.append(f"{channels}-channels")
    return ".".join(parts)


def _channels_of_source(asked: Asked) -> int | None:
    """Channels of the value that the block around a site starts from, where there is one."""
    try:
        return gates.source_of(asked).channels
    except Impossible:
        return None
