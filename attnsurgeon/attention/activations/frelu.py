"""Funnel activation: the larger of a value and what a depthwise convolution sees around it.

    y = max(x, batchnorm(depthwise conv3x3(x)))

Ma et al., "Funnel Activation for Visual Recognition", ECCV 2020, https://arxiv.org/abs/2007.11824
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from attnsurgeon.attention.checks import odd_kernel
from attnsurgeon.attention.identity import replacing
from attnsurgeon.attention.kernels import around, kernel_along
from attnsurgeon.attention.norms import ONE_VALUE, BatchNorm
from attnsurgeon.attention.pictures import Picture, Seen
from attnsurgeon.attention.registry import mechanism
from attnsurgeon.attention.shapes import CONV


def shares(seen: Seen) -> dict[str, Tensor]:
    """Returns at how many of a channel's positions the value passes, and the funnel does."""
    x = seen.values[0]
    passes = (x >= seen.module.around(x)).to(x.dtype).flatten(2).mean(2)  # (N, C)
    return {"branches": torch.stack((passes, 1 - passes), dim=1)}


def count(channels: int, rank: int, kernel_size: int) -> int:
    """Returns the number of parameters."""
    return channels * math.prod(kernel_along(odd_kernel(kernel_size), rank)) + 2 * channels


@mechanism(
    "frelu",
    kind="activation",
    ranks=(1, 2, 3),
    placement="activation",
    picture=Picture(
        ("branches",),
        "at how many of a channel's positions the value passes, and what is around it does",
        shares,
    ),
    formula="9C + 2C; 3C + 2C at rank 1, 27C + 2C at rank 3",
    count=count,
    identity=replacing(
        base=lambda replaced: nn.ReLU(),
        how="y = old(x) + g * (mechanism(x) - old(x)), learnable g = 0; old is the activation "
        "that was there, or ReLU where the mechanism stands alone",
    ),
    constraints=("kernel_size is odd",),
    limits=(
        'FX int8, PT2E int8: under init="paper" the error is four times that of the bare '
        "network: the threshold is rounded to eight bits as well",
    ),
    deviations=(
        "the convolution has no bias, which the norm behind it would take away; compared with a "
        "third party's code, as the authors' is for MegEngine",
        "the authors leave the activations of the last stage as they are; the placement takes "
        "all, and rules take fewer",
        "ranks 1 and 3 are not the authors': the window is a span, or a box",
        ONE_VALUE,
    ),
)
class FReLU(nn.Module):
    """Replaces an activation by the larger of a value and a weighed sum of those around it.

    Args:
        channels: C.
        rank: 1, 2 or 3.
        kernel_size: of the window, odd.

    Shape:
        x (N, C, ...) -> (N, C, ...)
    """

    def __init__(self, channels: int, *, rank: int = 2, kernel_size: int = 3) -> None:
        super().__init__()
        kernel = kernel_along(odd_kernel(kernel_size), rank)
        self.conv = CONV[rank](
            channels, channels, kernel, padding=around(kernel), groups=channels, bias=False
        )
        self.norm = BatchNorm(channels)

    def around(self, x: Tensor) -> Tensor:
        """Returns what the window makes of the values around each."""
        return self.norm(self.conv(x)).to(x.dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the larger of the two."""
        return torch.maximum(x, self.around(x))
