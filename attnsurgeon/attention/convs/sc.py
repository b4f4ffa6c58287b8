"""Self-calibrated convolution: a convolution is gated by one that sees four times as far.

    gate = sigmoid(x + upsample(batchnorm(conv(meanpool_4(x)))))
    y = batchnorm(conv(batchnorm(conv(x)) * gate))
    split: y = [batchnorm(conv(first half of x)), that of the second half]

Liu et al., "Improving Convolutional Networks with Self-Calibrated Convolutions", CVPR 2020,
https://github.com/MCG-NKU/SCNet
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.fx
from torch import Tensor, nn
from torch.nn import functional as F

from attnsurgeon.attention.convs.geometry import Conv, alike, keeping
from attnsurgeon.attention.identity import replacing
from attnsurgeon.attention.norms import ONE_VALUE, BatchNorm
from attnsurgeon.attention.pictures import Picture
from attnsurgeon.attention.registry import mechanism
from attnsurgeon.attention.resampling import spread_to
from attnsurgeon.errors import MechanismError

_POOL: dict[int, Callable[..., Tensor]] = {1: F.avg_pool1d, 2: F.avg_pool2d}


@torch.fx.wrap
def pooled(x: Tensor, pooling: int) -> Tensor:
    """Returns means over windows side by side; an axis shorter than a window is one."""
    return _POOL[x.dim() - 2](x, [min(pooling, side) for side in x.shape[2:]])


@torch.fx.wrap
def upsampled(z: Tensor, like: Tensor) -> Tensor:
    """Returns `z` interpolated to the size of `like`, each position from the nearest."""
    return spread_to(z, like)


def halves(conv: Conv) -> bool:
    """Says whether both halves of the channels can have a convolution of their own."""
    inputs, outputs, groups = conv.in_channels, conv.out_channels, conv.groups
    return not (inputs % 2 or outputs % 2 or (groups > 1 and groups % 2))


def widths(conv: Conv, split: bool) -> tuple[int, int, int]:
    """Returns input channels, output channels and groups of the calibrated convolution.

    A half of a grouped convolution has half of the groups, so that these keep their width.
    """
    if not split:
        return conv.in_channels, conv.out_channels, conv.groups
    if not halves(conv):
        raise MechanismError(
            f"{conv.in_channels} channels to {conv.out_channels} in {conv.groups} groups cannot "
            "be halved",
            "use split=False",
        )
    return conv.in_channels // 2, conv.out_channels // 2, max(conv.groups // 2, 1)


def count(conv: Conv, split: bool) -> int:
    """Returns the number of parameters."""
    inputs, outputs, groups = widths(conv, split)
    window = math.prod(conv.kernel_size)
    inner = window * inputs * inputs // groups + 2 * inputs
    last = window * inputs * outputs // groups + 2 * outputs
    return 2 * inner + (2 if split else 1) * last


def at_site(conv: Conv) -> Mapping[str, Any]:
    """Returns the arguments that follow from the convolution."""
    return {"split": True} if halves(conv) else {}


@mechanism(
    "sc",
    kind="conv",
    ranks=(1, 2),
    placement="block-conv3x3",
    picture=Picture(
        ("both",),
        "the gate of the calibrated convolution, of the map before its last convolution",
        lambda seen: {"both": seen.last("sigmoid")},
    ),
    formula="2(k^2 c^2 / groups + 2c) + 2(k^2 c c' / groups + 2c'), c = C_in/2, c' = C/2; "
    "2(k^2 C_in^2 / groups + 2C_in) + k^2 C_in C / groups + 2C without the split",
    count=count,
    identity=replacing(),
    constraints=("an odd kernel", "the convolution pads with zeros, and alike on both sides"),
    limits=(
        "pruning: it splits the channels into two halves, and a pruner narrows the layers of "
        "each by itself",
    ),
    deviations=(
        "in a network the channels are halved as the authors halve them: the block's first 1x1 "
        "convolution stays one, of which each half takes its part; the activation behind the "
        "convolution serves both halves",
        "an axis shorter than the pooling is one window, where the authors' code raises",
        "the last convolution alone changes the number of channels; the authors never change it",
        "rank 1 is not the authors': kernels and windows run along the signal",
        ONE_VALUE,
    ),
    rank_reason="(windows of four would leave nothing of the few frames of a clip)",
    site_args=at_site,
    swallows_norm=True,
)
class SC(nn.Module):
    """Gates a convolution by one of a map of a fourth of the size, then convolves again.

    Args:
        conv: the convolution that is replaced; all have its kernel and dilation, the last one
            its stride.
        pooling: side of the windows that the map is averaged over.
        split: the first half of the channels has a plain convolution; a plan splits where it can.

    Shape:
        x (N, C_in, ...) -> (N, C, ...), of the size that `conv` makes
    """

    def __init__(self, conv: Conv, *, pooling: int = 4, split: bool = False) -> None:
        super().__init__()
        inputs, outputs, groups = widths(conv, split)

        def normed(made: Conv) -> nn.Sequential:
            return nn.Sequential(made, BatchNorm(made.out_channels))

        self.pooling = pooling
        self.k1 = normed(alike(conv, inputs, outputs, groups=groups)) if split else None
        self.k2 = normed(keeping(conv, inputs, groups=groups))
        self.k3 = normed(keeping(conv, inputs, groups=groups))
        self.k4 = normed(alike(conv, inputs, outputs, groups=groups))

    def forward(self, x: Tensor) -> Tensor:
        """Returns the calibrated convolution, beside a plain one where the channels are split."""
        if self.k1 is None:
            return self.calibrated(x)
        first, second = x.chunk(2, dim=1)
        return torch.cat([self.k1(first), self.calibrated(second)], dim=1)

    def calibrated(self, x: Tensor) -> Tensor:
        """Returns the convolution gated by its far view, convolved once more."""
        far = upsampled(self.k2(pooled(x, self.pooling)), x)
        return self.k4(self.k3(x) * (x + far).sigmoid())

    def extra_repr(self) -> str:
        """Returns the pooling."""
        return f"pooling={self.pooling}"
