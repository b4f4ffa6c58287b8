"""Attentional weights: every image has a map of the kernel's shape by which its kernel changes.

    A0 = mean of x over as many windows as the kernel has places, (N, C_in, k, k)
    A1 = relu(batchnorm(W1 A0)), C_in/r channels
    A2 = sigmoid(batchnorm(W2 A1)), C channels, each for all input channels of the kernel
    y = convolution of x with K + A2 * K

Zhu et al., "An Attention Module for Convolutional Neural Networks", arXiv 2021,
https://arxiv.org/abs/2108.08205
"""

from __future__ import annotations

import torch.fx
from torch import Tensor, nn
from torch.nn import functional as F

from attnsurgeon.attention.checks import hidden_width
from attnsurgeon.attention.convs.geometry import Conv
from attnsurgeon.attention.identity import Gate, Identity, open_gates, zero
from attnsurgeon.attention.norms import ONE_VALUE, BatchNorm
from attnsurgeon.attention.pictures import Picture, Seen
from attnsurgeon.attention.registry import mechanism
from attnsurgeon.attention.resampling import pool_to
from attnsurgeon.attention.shapes import CONV, unflatten
from attnsurgeon.errors import MechanismError


@torch.fx.wrap
def windows(x: Tensor, size: tuple[int, ...]) -> Tensor:
    """Returns `x` averaged to the size of the kernel."""
    return pool_to(x, size)


def maps(conv: Conv, shared: int | None) -> int:
    """Returns how many maps an output channel has, each for some of the kernel's input channels."""
    channels = conv.in_channels // conv.groups
    if channels % (shared or channels):
        raise MechanismError(
            f"shared={shared} does not divide the kernel's {channels} input channels",
            f"shared={channels}, or none, gives all of them the same map",
        )
    return channels // (shared or channels)


def gates(seen: Seen) -> dict[str, Tensor]:
    """Returns what the weight of each image is multiplied by, (N, C, C_in / groups, ...)."""
    module, weight = seen.module, seen.values[0]
    gate = (module.gate.gain * seen.last("sigmoid")).to(weight.dtype)
    gate = unflatten(gate, 1, (-1, module.maps))
    if module.shared is not None:
        gate = gate.repeat_interleave(module.shared, dim=2)
    gate = gate.expand(-1, *weight.shape)
    return {"weights": 1 + gate if module.residual and not module.apart else gate}


def count(conv: Conv, reduction: int, shared: int | None) -> int:
    """Returns the number of parameters."""
    m = hidden_width(conv.in_channels, reduction)
    made = conv.out_channels * maps(conv, shared)
    return conv.in_channels * m + 2 * m + m * made + 2 * made


def start(module: nn.Module, replaced: nn.Module | None) -> nn.Module:
    """Makes the map zero, and what it adds a convolution of its own."""
    assert isinstance(module, AW)
    zero(module, "norm2")
    open_gates(module)
    module.apart = True
    return module


@mechanism(
    "aw",
    kind="weight",
    ranks=(1, 2, 3),
    placement="conv3x3",
    picture=Picture(("weights",), "1 + A2 of each image, what its kernel is multiplied by", gates),
    formula="C_in m + 2m + m C s + 2 C s, m = C_in//r, s = C_in / groups / shared, or 1",
    count=count,
    identity=Identity(
        "native",
        "the last batch norm starts at zero and the map is 2 * sigmoid - 1, so it starts at 0; "
        "what it adds is convolved apart from the weight itself",
        start,
    ),
    constraints=("C_in >= reduction",),
    limits=(
        "pruning: it reads the weight of a convolution, and a pruner follows only what the "
        "layers make of the map",
    ),
    deviations=(
        "its authors have published no code, so it is built from the paper's description and "
        "compared with no numbers of theirs: windows as adaptive pooling cuts them, no biases, "
        "batch norms before both activations, r = 16, and one map for all input channels of the "
        "kernel (r_C1 = C_1 there)",
        "as other descriptions have it, without the kernel itself, K * A: residual=False",
        "each image has a weight of its own in memory, and none can be folded",
        "the identity start takes two convolutions, so that what is added is zero to the bit",
        "ranks 1 and 3 are not the authors': the map has the kernel's axes",
        ONE_VALUE,
    ),
    takes=("weight", "value"),
    per_sample=True,
)
class AW(nn.Module):
    """Changes the weight of a convolution for each image, by a map made from its window means.

    Args:
        conv: the convolution whose weight it is.
        reduction: r, by which the hidden layer is narrower than the input channels.
        shared: how many input channels of the kernel have the same map; None for all of them.
        residual: the map is added to one before it multiplies the weight.

    Shape:
        weight (C, C_in / groups, ...), x (N, C_in, ...) -> (N, C, C_in / groups, ...);
        under the identity start the weight itself, and what is added to it for each image
    """

    def __init__(
        self,
        conv: Conv,
        *,
        reduction: int = 16,
        shared: int | None = None,
        residual: bool = True,
    ) -> None:
        super().__init__()
        rank, m = len(conv.kernel_size), hidden_width(conv.in_channels, reduction)
        self.size = conv.kernel_size
        self.maps = maps(conv, shared)
        self.shared = shared if self.maps > 1 else None
        self.residual = residual
        self.apart = False
        self.conv1 = CONV[rank](conv.in_channels, m, 1, bias=False)
        self.norm1 = BatchNorm(m)
        self.conv2 = CONV[rank](m, conv.out_channels * self.maps, 1, bias=False)
        self.norm2 = BatchNorm(conv.out_channels * self.maps)
        self.gate = Gate()

    def forward(self, weight: Tensor, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Returns a weight for each image, or the weight and what each image adds to it."""
        squeezed = F.relu(self.norm1(self.conv1(windows(x, self.size))))
        gate = self.gate(self.norm2(self.conv2(squeezed))).to(weight.dtype)
        gate = unflatten(gate, 1, (-1, self.maps))  # (N, C, maps, ...)
        if self.shared is not None:
            gate = gate.repeat_interleave(self.shared, dim=2)
        if self.apart:
            return weight, weight * (gate - 1)
        return weight + weight * gate if self.residual else weight * gate

    def extra_repr(self) -> str:
        """Returns what is not seen of the layers."""
        return f"size={self.size}, maps={self.maps}, residual={self.residual}, apart={self.apart}"
