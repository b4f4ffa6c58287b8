"""Large kernel attention: a large depthwise convolution, taken apart in three, gates each value.

    y = x * conv1x1(dilated depthwise conv7x7(depthwise conv5x5(x)))

Guo et al., "Visual Attention Network", Computational Visual Media 2023,
https://arxiv.org/abs/2202.09741
"""

from __future__ import annotations

import math

from torch import Tensor, nn
from torch.nn import functional as F

from attnsurgeon.attention.checks import odd_kernel
from attnsurgeon.attention.identity import Identity, zero
from attnsurgeon.attention.kernels import kernel_along
from attnsurgeon.attention.pictures import Picture, Seen, gates_of
from attnsurgeon.attention.registry import mechanism
from attnsurgeon.attention.shapes import CONV, Conv


def depthwise(channels: int, kernel_size: int, dilation: int, rank: int) -> Conv:
    """Returns a depthwise convolution that keeps the size."""
    kernel = kernel_along(odd_kernel(kernel_size), rank)
    margin = tuple(dilation * (k // 2) for k in kernel)
    return CONV[rank](channels, channels, kernel, 1, margin, dilation, channels)


class LargeKernel(nn.Module):
    """The gate itself: x -> (N, C, ...), with which `x` is multiplied."""

    def __init__(
        self, channels: int, rank: int, kernel_size: int, dilated: int, dilation: int
    ) -> None:
        super().__init__()
        self.near = depthwise(channels, kernel_size, 1, rank)
        self.far = depthwise(channels, dilated, dilation, rank)
        self.mix = CONV[rank](channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the gate."""
        return self.mix(self.far(self.near(x)))


def start(module: nn.Module, replaced: nn.Module | None) -> nn.Module:
    """Makes the gate one, or what is added zero."""
    assert isinstance(module, LKA)
    if module.after is not None:
        zero(module, "after")
        return module
    zero(module, "gate.mix")
    assert module.gate.mix.bias is not None
    nn.init.ones_(module.gate.mix.bias)
    return module


def pictured(seen: Seen) -> dict[str, Tensor]:
    """Returns the gate of each value."""
    return gates_of(seen, ("both",)) if seen.module.after is None else {}


def count(channels: int, rank: int, kernel_size: int, dilated: int, projections: bool) -> int:
    """Returns the number of parameters."""
    windows = sum(math.prod(kernel_along(k, rank)) for k in (kernel_size, dilated))
    mixes = 3 if projections else 1
    return channels * windows + 2 * channels + mixes * (channels * channels + channels)


@mechanism(
    "lka",
    kind="gate",
    ranks=(1, 2, 3),
    placement="block-branch",
    picture=Picture(("both",), "the gate of each value, which has no bounds", pictured),
    formula="5^2 C + 7^2 C + 2C + C^2 + C, with projections 2(C^2 + C) more; 5 + 7 at rank 1, "
    "3 * 5^2 + 3 * 7^2 at rank 3",
    count=count,
    identity=Identity(
        "native",
        "the last convolution starts with weights of zero and biases of one; with "
        "projections=True what is added starts at zero",
        start,
    ),
    constraints=("both kernels are odd",),
    deviations=(
        "the gate alone, which is what the paper calls LKA; projections=True is the attention of "
        "a VAN block, whose two 1x1 convolutions, GELU and shortcut are around it",
        "ranks 1 and 3 are not the authors': kernels are as long, or cover three frames",
    ),
)
class LKA(nn.Module):
    """Multiplies each value by what a large kernel sees around it.

    Args:
        channels: C.
        rank: 1, 2 or 3.
        kernel_size: of the convolution that looks near.
        dilated: the kernel of the one that looks far.
        dilation: of that one.
        projections: the block of VAN around it: y = x + W2 LKA(gelu(W1 x)).

    Shape:
        x (N, C, ...) -> (N, C, ...)
    """

    def __init__(
        self,
        channels: int,
        *,
        rank: int = 2,
        kernel_size: int = 5,
        dilated: int = 7,
        dilation: int = 3,
        projections: bool = False,
    ) -> None:
        super().__init__()
        self.before = CONV[rank](channels, channels, 1) if projections else None
        self.gate = LargeKernel(channels, rank, kernel_size, dilated, dilation)
        self.after = CONV[rank](channels, channels, 1) if projections else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Starts as the authors' networks do."""
        for layer in self.modules():
            if isinstance(layer, Conv):
                fan_out = math.prod(layer.kernel_size) * layer.out_channels // layer.groups
                nn.init.normal_(layer.weight, std=math.sqrt(2 / fan_out))
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Returns `x` times its gate, between the projections where there are any."""
        if self.before is None or self.after is None:
            return x * self.gate(x).to(x.dtype)
        z = F.gelu(self.before(x))
        return x + self.after(z * self.gate(z)).to(x.dtype)
