"""What changes the weight of a convolution before it is used."""

from __future__ import annotations

from attnsurgeon.attention.shapes import CONVOLUTIONS as KINDS
from attnsurgeon.planning.cutting.retyping import place_of_operation
from attnsurgeon.planning.deciding.asked import Asked, Draft, possible
from attnsurgeon.planning.deciding.operand import Impossible
from attnsurgeon.planning.place import class_name
from attnsurgeon.recording.record import Call, Event
from attnsurgeon.sites.flow import CONVOLUTIONS


def decide(asked: Asked) -> Draft:
    """Decides whether the forward of a convolution can hand its weight through the attention."""
    call: Call = asked.target.meta["call"]
    events = [e for e in call.events if isinstance(e, Event) and e.name in CONVOLUTIONS]
    if not isinstance(call.module, KINDS) or len(events) != 1:
        raise Impossible(
            f"it is made by a {class_name(call.module)}, not by one convolution module"
        )
    place = possible(place_of_operation(asked.survey, events[0].nodes[0], "excite"))
    return Draft(place, asked.value(asked.target), {"conv": call.module}, conv=call.module)
