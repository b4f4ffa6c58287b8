"""What gates a skip: the value of the decoder that it meets, or the coarser one this comes from."""

from __future__ import annotations

from dataclasses import replace

from torch import fx

from attnsurgeon.planning.cutting.retyping import place_beside
from attnsurgeon.planning.deciding.asked import Asked, possible
from attnsurgeon.planning.deciding.operand import Impossible, Value
from attnsurgeon.planning.place import Place, Refusal
from attnsurgeon.sites.survey import operand_of

SIGNALS = frozenset(["coarser", "raised"])  # as in `attention.registry.ACTIONS`
_RAISED = "signal=raised gates it by what it meets"


def gated_by(asked: Asked, value: Value, into: fx.Node | None) -> tuple[Place, Value]:
    """The place where a skip meets the decoder, and the value that gates it there.

    Raises:
        Impossible: the site is no skip, what it meets is not one value of its own size, or no
            forward sees both the skip and what is to gate it.
    """
    name = asked.card.name
    if into is None:
        raise Impossible(f"it meets no value of a decoder, by which {name} gates; it is for skips")
    meets = asked.survey.meets[asked.request.site.path]
    if len(meets) != 1:
        raise Impossible(
            f"it meets {len(meets)} values of the decoder in one operation, and {name} is gated by "
            "one"
        )
    (node,) = meets
    met = asked.value(node)
    if met.size != value.size:
        raise Impossible(f"it is {_sides(value)}, and what it meets in the decoder {_sides(met)}")
    if "raised" in asked.card.inputs(asked.request.attn_args):
        return _into(asked, value, into, met), met
    return _coarser(asked, value, into, met)


def _coarser(asked: Asked, value: Value, into: fx.Node, met: Value) -> tuple[Place, Value]:
    """The last value that was raised to what the skip meets, of those that are seen there."""
    found = _before_the_rise(asked, met)
    if not found:
        raise Impossible(
            f"what it meets in the decoder was raised from no single coarser value; {_RAISED}"
        )
    reasons = []
    for signal in found:
        place = _beside(asked, value, into, signal)
        if isinstance(place, Place):
            return place, signal
        reasons.append(place.reason)
    raise Impossible(f"{reasons[0]}; {_RAISED}")


def _before_the_rise(asked: Asked, met: Value) -> list[Value]:
    """The values of the next coarser size that everything passes on its way to a value, the last
    first.
    """
    found: list[Value] = []
    for node in reversed(asked.survey.flow.dominators(met.node)):
        if node.meta.get("event") is None:
            break
        try:
            value = asked.value(node)
        except Impossible:
            break
        if found and value.size != found[0].size:
            break
        if len(value.size) == len(met.size) and _is_coarser(value, met):
            found.append(value)
    return found


def _is_coarser(value: Value, met: Value) -> bool:
    pairs = list(zip(value.size, met.size, strict=True))
    return all(low <= high for low, high in pairs) and value.size != met.size


def _into(asked: Asked, value: Value, into: fx.Node, signal: Value) -> Place:
    return possible(_beside(asked, value, into, signal))


def _beside(asked: Asked, value: Value, into: fx.Node, signal: Value) -> Place | Refusal:
    """The place before the operation, in a forward that sees the signal, too."""
    if (signal.layout, signal.line) != (value.layout, value.line):
        return Refusal("what is to gate it has another layout than the skip")
    place = place_beside(asked.survey, into, [signal.node], "what is to gate it")
    if isinstance(place, Refusal):
        return place
    return replace(place, before=True, operand=operand_of(into, value.node))


def _sides(value: Value) -> str:
    return " x ".join(map(str, value.size))
