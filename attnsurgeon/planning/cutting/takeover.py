"""Operation -> the module that is this operation alone, and hands its input on instead."""

from __future__ import annotations

from torch import fx

from attnsurgeon.forwards.retype import is_generated
from attnsurgeon.planning.cutting.leaks import leaks, torn
from attnsurgeon.planning.cutting.modules import is_container
from attnsurgeon.planning.cutting.rebuilders import (
    inside_rebuilder,
    outlives_fuse,
    outside_rebuilders,
)
from attnsurgeon.planning.place import Place, Refusal, where
from attnsurgeon.recording.record import Call, Event
from attnsurgeon.sites.flow import CONVOLUTIONS
from attnsurgeon.sites.survey import Survey, makes_alone


def takeover(survey: Survey, node: fx.Node) -> Place | Refusal:
    """Says whether the module that makes the value can hand its input on instead."""
    if shared := torn(survey, node):
        return shared
    call: Call = node.meta["call"]
    if outside_rebuilders(node)[1] is not call and not outlives_fuse(survey, call):
        return inside_rebuilder(call)
    value = call.inputs[0] if call.inputs else None
    if not (makes_alone(call, node) or _pads_only(call, node)) or is_container(call.module):
        return Refusal("no module is this operation and nothing more")
    if value is None or not call.takes(value) or len(call.args) > 1 or call.kwargs:
        return Refusal(f"{where(call)} is given more than one value")
    if is_generated(type(call.module)):
        return Refusal(f"{where(call)} has attention inside already")
    if "forward" in call.module.__dict__:
        return Refusal(f"the forward of {where(call)} has been replaced on the object itself")
    if leaks(survey, call, node):
        return Refusal(f"{where(call)} works in place, and others go on with its argument")
    return Place("takeover", call.path, None, False, len(survey.traced.calls[call.path]))


def _pads_only(call: Call, node: fx.Node) -> bool:
    """Whether a module is a convolution whose children do nothing but pad what it is given."""
    operation = node.meta["event"]
    if not call.returns(node) or call.parent is None or operation not in call.events:
        return False
    inside = [event for event in call.events if event is not operation]
    return operation.name in CONVOLUTIONS and all(map(_pads, inside))


def _pads(event: Event | Call) -> bool:
    if isinstance(event, Call):
        return all(map(_pads, event.events))
    return event.alias or event.name == "pad"
