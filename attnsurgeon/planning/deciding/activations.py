"""What stands in the place of an activation, be it a module or a function."""

from __future__ import annotations

from attnsurgeon.planning.cutting.retyping import place_of_operation
from attnsurgeon.planning.cutting.takeover import takeover
from attnsurgeon.planning.deciding.asked import Asked, Draft, possible
from attnsurgeon.planning.deciding.operand import Impossible
from attnsurgeon.planning.place import Place
from attnsurgeon.sites.flow import Flow
from attnsurgeon.sites.survey import makes_alone


def decide(asked: Asked) -> Draft:
    """Decides between the module that is the activation and the forward that calls it."""
    survey, target = asked.survey, asked.target
    if len(Flow.inputs(target)) > 1 and not makes_alone(target.meta["call"], target):
        raise Impossible("it works on two values")
    place = takeover(survey, target)
    matched_alone = isinstance(place, Place) and place.calls == 1
    if not matched_alone:
        place = place_of_operation(survey, target, "replace")
    place = possible(place)
    keeps_old = asked.card.within is not None and asked.request.init == "identity"
    in_place = target.meta.get("over") is not None
    return Draft(
        place, asked.value(target),
        removes=(place.host,) if place.technique == "takeover" and not keeps_old else (),
        keeps_old=keeps_old, clones=keeps_old and in_place,
    )  # fmt: skip
