"""What stands in the place of a convolution, and of its norm where that is its own."""

from __future__ import annotations

from dataclasses import replace

from torch import fx, nn

from attnsurgeon.attention.convs.geometry import Conv, output_size
from attnsurgeon.attention.shapes import CONVOLUTIONS
from attnsurgeon.planning.cutting.takeover import takeover
from attnsurgeon.planning.deciding.asked import Asked, Draft, check_own, possible
from attnsurgeon.planning.deciding.operand import Impossible, Value
from attnsurgeon.recording.record import Call
from attnsurgeon.sites.flow import NORMS, name_of
from attnsurgeon.sites.survey import Survey, makes_alone

_PADS = (
    "it pads for the input size that it was built for, and raises at sizes for which that is not "
    "the right padding"
)


def decide(asked: Asked) -> Draft:
    """Decides whether a convolution can be replaced, and what goes with it."""
    survey, target = asked.survey, asked.target
    place = possible(takeover(survey, target))
    call = survey.traced.calls[place.host][0]
    conv = _plain(call.module)
    given = tuple(call.inputs[0].meta["shape"][2:])
    _check_padding(conv, asked.value(target), given)
    if conv._modules:
        place = replace(place, note=_PADS)
    removes: tuple[str, ...] = ()
    if asked.request.init == "paper":
        norm, note = _norm_behind(survey, target) if asked.card.swallows_norm else ((), "")
        place = replace(place, note=note or place.note)
        removes = (place.host, *norm)
        for path in removes:
            check_own(survey, path)
    return Draft(
        place, asked.value(target), {"conv": conv, "input_size": given},
        conv=conv, removes=removes, keeps_old=asked.request.init == "identity",
    )  # fmt: skip


def _plain(module: nn.Module) -> Conv:
    """The convolution that a module is.

    Raises:
        Impossible: it is none with a weight of its own.
    """
    if not isinstance(module, CONVOLUTIONS):
        raise Impossible(f"it is a {type(module).__name__}, not a convolution module")
    if module.__dict__.get("parametrizations") or "weight" not in module._parameters:
        raise Impossible("its weight is computed from other parameters")
    return module


def _check_padding(conv: Conv, made: Value, given: tuple[int, ...]) -> None:
    """Refuses a convolution whose forward makes a map of another size than it states."""
    if made.size != output_size(conv, given):
        raise Impossible(f"it makes maps of {made.size} from {given}, not by the padding it states")


def _norm_behind(survey: Survey, target: fx.Node) -> tuple[tuple[str, ...], str]:
    """The path of the norm that alone uses a convolution, or a note on why it stays."""
    users = list(target.users)
    norms = [u for u in users if name_of(u) in NORMS]
    if not norms:
        return (), ""
    call: Call = norms[0].meta["call"]
    alone = makes_alone(call, norms[0]) and len(survey.traced.calls[call.path]) == 1
    if len(users) == 1 and alone:
        return (call.path,), ""
    return (), "the norm behind it stays: it is part of a larger module"
