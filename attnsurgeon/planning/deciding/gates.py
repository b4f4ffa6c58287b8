"""A gate on a value: after it, or before the operation that it enters."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import fx

from attnsurgeon.planning.cutting.appearing import input_of
from attnsurgeon.planning.cutting.insertion import place_on
from attnsurgeon.planning.cutting.rebuilders import behind_rebuilder
from attnsurgeon.planning.cutting.retyping import place_beside
from attnsurgeon.planning.deciding.asked import Asked, Draft, possible
from attnsurgeon.planning.deciding.operand import Impossible, Value
from attnsurgeon.planning.deciding.signals import SIGNALS, gated_by
from attnsurgeon.planning.place import Place, Refusal
from attnsurgeon.sites.flow import Flow, is_weighted
from attnsurgeon.sites.residuals import Residual
from attnsurgeon.sites.survey import operand_of
from attnsurgeon.sites.tokens import row_of


def decide(asked: Asked) -> Draft:
    """Decides where a gate goes in, and what it works on there."""
    survey, target = asked.survey, asked.target
    into = survey.merges.get(asked.request.site.path)
    before = asked.action == "insert-before" or into is not None
    node = input_of(target) if before and into is None else target
    if node is None:
        raise Impossible("the operation has no input to insert before")
    node, moved = (node, "") if before else behind_rebuilder(survey, node)
    value = asked.value(node)
    facts: dict[str, Any] = {}
    inputs = asked.card.inputs(asked.request.attn_args)
    if not SIGNALS.isdisjoint(inputs):
        place, signal = gated_by(asked, value, into)
        facts = {"signal_channels": signal.channels, "signal_size": signal.size}
    elif "source" in inputs:
        source = asked.value(source_of(asked))
        place = possible(place_beside(survey, node, [source.node], "the block's input"))
        facts = {"source_channels": source.channels, "source_size": source.size}
        if (source.layout, source.line) != (value.layout, value.line):
            raise Impossible("the block's input has another layout than the value")
        if value.as_map and source.tokens != value.tokens:
            raise Impossible("the tokens of the block's input stand otherwise than the value's")
    elif into is not None:
        place = _on_the_way(asked, node, into)
    elif before:
        place = place_on(survey, node, target)
    else:
        value, place = _after(asked, value)
    place = possible(place)
    if moved:
        place = replace(place, note=moved, moved=True)
    return Draft(place, value, facts)


def _on_the_way(asked: Asked, node: fx.Node, into: fx.Node) -> Place | Refusal:
    """The place where a skip goes into the decoder; behind it where it goes nowhere else."""
    place = place_on(asked.survey, node, into)
    alone = [user for user in node.users if user.meta["data"]] == [into]
    if isinstance(place, Place):
        return replace(place, operand=operand_of(into, node))
    if not alone:
        return place
    after = place_on(asked.survey, node)
    return place if isinstance(after, Refusal) else after


def _after(asked: Asked, value: Value) -> tuple[Value, Place | Refusal]:
    """The place behind a value; where a map cannot be cut, that of the row it is cut from."""
    place = place_on(asked.survey, value.node)
    row = row_of(value.node, asked.survey.traced)
    if isinstance(place, Place) or row is None:
        return value, place
    value, place = asked.value(row), place_on(asked.survey, row)
    if isinstance(place, Refusal):
        return value, place
    note = "before the tokens of no position are cut off"
    return value, replace(place, note=f"{note}; {place.note}" if place.note else note)


def source_of(asked: Asked) -> fx.Node:
    """The value that enters the block around the end of its computed path or its output."""
    flow = asked.survey.flow
    for residual in asked.survey.residuals.values():
        if _ends(residual, asked.target):
            return _entering(residual, flow)
    block = asked.survey.blocks.get(asked.target)
    given = [node for node in block.inputs if node in flow.rank] if block is not None else []
    if len(given) == 1:
        return given[0]
    raise Impossible("it is not the end of a residual block or of its branch")


def _entering(residual: Residual, flow: Flow) -> fx.Node:
    """What enters the block of a residual addition: where the block first normalises and bends
    its input, and branch and projection both start from that, it is the input still.
    """
    source, call = residual.source, residual.add.meta["call"]
    given = [node for node in call.inputs if node in flow.rank]
    if len(given) != 1 or source in given or not flow.reaches(given[0], source):
        return source
    ahead = flow.between(given[0], source)
    return source if any(is_weighted(node) for node in ahead) else given[0]


def _ends(residual: Residual, node: fx.Node) -> bool:
    return node is residual.add or node in residual.branches or [node] == list(residual.add.users)
