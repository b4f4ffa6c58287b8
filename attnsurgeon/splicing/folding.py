"""Operated network -> the same network with its weight excitations folded into plain weights."""

from __future__ import annotations

import torch
from torch import nn

from attnsurgeon.attention.registry import lookup, mechanisms
from attnsurgeon.errors import UsageError
from attnsurgeon.forwards.retype import restored
from attnsurgeon.given import takes_networks
from attnsurgeon.recording.ambient import known_state
from attnsurgeon.recording.input_records import recorded_form
from attnsurgeon.recording.record import MARK, Call
from attnsurgeon.sites.analysis import record as record_forward
from attnsurgeon.splicing.history import forget, history, inserted


@takes_networks()
@known_state()
def fold(model: nn.Module) -> tuple[str, ...]:
    """Folds every weight excitation into the weight of its convolution, in place.

    For inference: the outputs stay what they are, the excitation's parameters and cost are gone,
    and it can no longer be trained.

    Returns:
        The paths of the convolutions.

    Raises:
        UsageError: there is nothing to fold, or something that cannot be; nothing was changed.
    """
    found = {
        path: module
        for path, module in inserted(model)
        if _is_of_weights(module.__dict__[MARK].attn)
    }
    if not found:
        raise UsageError(
            "the network has no weight excitation to fold",
            "only attention on the weights of convolutions folds: we",
        )
    calls = record_forward(model, example=recorded_form(history(model)[-1])).calls
    for path, part in found.items():
        _check(path, part, calls.get(path, []))
    for path, part in found.items():
        host, _, name = path.rpartition(".")
        conv = model.get_submodule(host)
        with torch.no_grad():
            weight = conv.get_parameter("weight")
            weight.copy_(part(weight))
        restored(conv)
        del conv._modules[name]
    forget(model, set(found))
    return tuple(path.rpartition(".")[0] for path in found)


def _is_of_weights(attn: str) -> bool:
    """Whether a mechanism works on weights; one of the user's own, known here or not, does not."""
    return attn in mechanisms() and lookup(attn).kind == "weight"


def _check(path: str, part: nn.Module, calls: list[Call]) -> None:
    attn = part.__dict__[MARK].attn
    if lookup(attn).per_sample:
        raise UsageError(
            f"{path}: {attn} makes a weight for every image, so it cannot be folded",
            "we can be: it looks at the weight alone",
        )
    host = path.rpartition(".")[0]
    own = [call.inputs[0].target == f"{host}.weight" for call in calls]
    if not own or not all(own):
        raise UsageError(
            f"{path}: its convolution changes its weight before it is excited, or never runs",
            "such a convolution (weight standardisation) cannot be folded",
        )
