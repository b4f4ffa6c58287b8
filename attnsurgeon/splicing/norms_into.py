"""A convolution that holds attention -> the same, which no norm is folded into.

Torch's `fuse_conv_bn_eval` gives a copy of a convolution the norm's scale in its weight and the
norm's shift as its bias. Attention on the weight, or between the two, would then be computed of
other numbers than before: other outputs, without a word. A bias where there was none is what is
seen of it; where there was one already, nothing is, and a convolution before a norm has none.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

from attnsurgeon.errors import ModelError
from attnsurgeon.forwards.retype import extended, original_class
from attnsurgeon.recording.record import MARK

_SOURCE = "register_parameter = refuse_a_bias\n"


def refuse_norms(hosts: Iterable[nn.Module]) -> None:
    """Lets layers that hold attention, and have a weight and no bias, refuse one."""
    for host in hosts:
        own = host._parameters
        marked = any(child is not None and MARK in vars(child) for child in host._modules.values())
        if marked and own.get("weight") is not None and own.get("bias", host) is None:
            extended(host, (_SOURCE,), (("refuse_a_bias", __name__, "refuse_a_bias"),))


def refuse_a_bias(self: Any, name: str, param: nn.Parameter | None) -> None:
    """Take the place of a layer's `register_parameter`.

    Raises:
        ModelError: a bias is given to a layer that had none.
    """
    if name == "bias" and param is not None and self._parameters.get(name, self) is None:
        children = (child for child in self._modules.values() if child is not None)
        marks = [vars(child)[MARK] for child in children if MARK in vars(child)]
        held = " and ".join(f"{mark.attn} for {mark.site}" for mark in marks)
        if held:
            raise ModelError(
                f"this {original_class(self).__name__} holds attention ({held}), and is given a"
                " bias that it had not, as if a norm were folded into it: it would compute"
                " something else",
                "leave this layer out; attnsurgeon.fold(model) folds excitations of weights (we)"
                " first",
            )
    original_class(self).register_parameter(self, name, param)
