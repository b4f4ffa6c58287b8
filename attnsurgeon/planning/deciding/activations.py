"""What stands in the place of an activation, be it a module or a function."""

from __future__ import annotations

from torch import fx

from attnsurgeon.planning.cutting.retyping import place_of_operation
from attnsurgeon.planning.cutting.takeover import takeover
from attnsurgeon.planning.deciding.asked import Asked, Draft, possible
from attnsurgeon.planning.deciding.operand import Impossible
from attnsurgeon.planning.place import Place
from attnsurgeon.recording.record import Event
from attnsurgeon.sites.flow import POOLS, Flow, is_weighted, name_of
from attnsurgeon.sites.survey import makes_alone


def decide(asked: Asked) -> Draft:
    """Decides between the module that is the activation and the forward that calls it.

    What is weighted or pools is not taken away for one: it makes another shape than it is given.
    """
    survey, target = asked.survey, asked.target
    if any(map(_shapes, _made_with(target))):
        raise Impossible(f"it is made by a {asked.request.site.type}, and is no activation")
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


def _made_with(target: fx.Node) -> list[fx.Node]:
    """The operations of the module that makes a value alone; of any other value its own."""
    call = target.meta["call"]
    events = call.events if makes_alone(call, target) else [target.meta["event"]]
    return [node for event in events if isinstance(event, Event) for node in event.nodes]


def _shapes(node: fx.Node) -> bool:
    """Whether an operation may make another shape than it is given."""
    return is_weighted(node) or name_of(node) in POOLS
