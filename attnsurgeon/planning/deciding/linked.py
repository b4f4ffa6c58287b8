"""Linked attention: a gate on a value that is also handed what the last one of its chain kept.

A chain follows the data: values that do not depend on each other (two encoders, parallel branches)
or that have other numbers of samples are of other chains.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import fx

from attnsurgeon.planning.cut import Cut
from attnsurgeon.planning.deciding import gates
from attnsurgeon.planning.deciding.asked import Asked, Draft
from attnsurgeon.planning.deciding.operand import Impossible, value_at


def decide(asked: Asked) -> Draft:
    """Decides where a link goes in, and which chain it is the next one of."""
    draft = gates.decide(asked)
    if draft.place.calls > 1:
        raise Impossible(f"{draft.place.host} runs several times in one forward, a chain once")
    scope = asked.request.scope or asked.card.scope
    family = _family(asked, scope, draft.value.channels)
    before = _before(asked, family, draft.value.node)
    facts: dict[str, Any] = {"previous_channels": before.channels if before else None}
    if before is None:
        facts["source_channels"] = _channels_of_source(asked)
        chains = {cut.chain for cut in asked.earlier if _is_of(cut, family)}
        chain, link = f"{family}.{len(chains) + 1}" if chains else family, 0
    else:
        chain, link = before.chain, before.link + 1
    facts = {**draft.facts, **facts}
    return replace(draft, facts=facts, scope=scope, chain=chain, link=link)


def _before(asked: Asked, family: str, node: fx.Node) -> Cut | None:
    """The link that a site is the next one of: the last one that its value depends on, with as
    many samples. Where two ways part, the chain goes on along the first.
    """
    ends = {cut.chain: cut for cut in asked.earlier if _is_of(cut, family)}
    flow = asked.survey.flow
    made = {asked.survey.nodes[cut.site.path]: cut for cut in ends.values()}
    samples = node.meta["shape"][0]
    fit = [n for n in made if flow.reaches(n, node) and n.meta["shape"][0] == samples]
    return made[max(fit, key=flow.rank.__getitem__)] if fit else None


def _is_of(cut: Cut, family: str) -> bool:
    return cut.chain == family or cut.chain.rpartition(".")[0] == family


def _family(asked: Asked, scope: str, channels: int) -> str:
    """What the names of the chains begin with, of which one may go on at a site."""
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
        return value_at(gates.source_of(asked), None, asked.survey.traced).channels
    except Impossible:
        return None
