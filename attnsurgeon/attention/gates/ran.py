"""Residual attention: a branch that looks down on the block's input lights up the block's output.

    M(s) = sigmoid(W2 relu(batchnorm(W1 relu(batchnorm(up(s))))))
    y = x * (1 + M(s))

where x is what the block computes of s, and up(s) comes of pooling s (3x3, stride 2) up to three
times, a residual unit after each pooling, and of interpolating back as often, what was there
before each further pooling added through a unit of its own.

Wang et al., "Residual Attention Network for Image Classification", CVPR 2017,
https://arxiv.org/abs/1704.06904
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch.fx
from torch import Tensor, nn
from torch.nn import functional as F

from attnsurgeon.attention.checks import are_tokens, hidden_width
from attnsurgeon.attention.identity import blend_pair
from attnsurgeon.attention.maxima import halved_max
from attnsurgeon.attention.norms import ONE_VALUE, BatchNorm
from attnsurgeon.attention.pictures import multiplied
from attnsurgeon.attention.registry import mechanism
from attnsurgeon.attention.resampling import interpolate_to
from attnsurgeon.attention.shapes import CONV
from attnsurgeon.errors import MechanismError

torch.fx.wrap("halved_max")  # both decide by sizes, which a trace does not know
torch.fx.wrap("interpolate_to")

Stride = int | tuple[int, ...]
FINEST = (14, 28, 56)  # from these sides on a map is pooled once, twice, three times


class Unit(nn.Module):
    """Pre-activation residual bottleneck.

    Args:
        inner: channels of the input.
        outer: channels of the output.
        rank: 1, 2 or 3.
        reduction: by which the 3x3 convolution is narrower than the output.
        stride: of the 3x3 convolution.

    Shape:
        x (N, inner, ...) -> (N, outer, ...)
    """

    def __init__(
        self, inner: int, outer: int, *, rank: int, reduction: int, stride: Stride = 1
    ) -> None:
        super().__init__()
        conv, w = CONV[rank], hidden_width(outer, reduction)
        self.norm1 = BatchNorm(inner)
        self.conv1 = conv(inner, w, 1, bias=False)
        self.norm2 = BatchNorm(w)
        self.conv2 = conv(w, w, 3, stride, 1, bias=False)
        self.norm3 = BatchNorm(w)
        self.conv3 = conv(w, outer, 1, bias=False)
        self.project: nn.Module | None = None
        if projects(inner, outer, stride):
            self.project = conv(inner, outer, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the unit's output."""
        z = F.relu(self.norm1(x))
        shortcut = x if self.project is None else self.project(z)
        z = self.conv2(F.relu(self.norm2(self.conv1(z))))
        return self.conv3(F.relu(self.norm3(z))) + shortcut


def projects(inner: int, outer: int, stride: Stride) -> bool:
    """Says whether a unit changes the number of channels or the size of the map."""
    strides = (stride,) if isinstance(stride, int) else stride
    return inner != outer or max(strides) > 1


def units(depth: int) -> int:
    """Returns the number of units: down, one more at the bottom, and for each skip two."""
    return depth + 1 + 2 * (depth - 1) if depth else 0


def count(
    channels: int,
    rank: int,
    depth: int,
    reduction: int,
    source_channels: int | None,
    stride: Stride,
) -> int:
    """Returns the number of parameters."""
    w, source = hidden_width(channels, reduction), source_channels or channels

    def unit(inner: int) -> int:
        norms = 2 * inner + 4 * w
        return norms + inner * w + 3**rank * w * w + w * channels

    total = units(depth) * unit(channels) + 2 * (2 * channels + channels * channels)
    if projects(source, channels, stride):
        total += unit(source) + source * channels
    return total


def site_args(
    size: tuple[int, ...],
    rank: int,
    source_channels: int | None,
    source_size: tuple[int, ...],
) -> Mapping[str, Any]:
    """Returns how often to pool a map of that size, and how the block's input differs from it."""
    if are_tokens(size, rank):
        raise MechanismError(
            "here are tokens, and it pools a map of positions", "choose feature maps"
        )
    side = min(size[-2:])
    stride = tuple(max(round(s / n), 1) for s, n in zip(source_size, size, strict=True))
    return {
        "depth": sum(side >= finest for finest in FINEST),
        "source_channels": source_channels,
        "stride": stride if max(stride) > 1 else 1,
    }


@mechanism(
    "ran",
    kind="gate",
    ranks=(1, 2, 3),
    placement="early-stage-block",
    picture=multiplied("both", how="1 + the mask"),
    formula="(3d - 1) u + 2 (2C + C^2), u = 2C + 2Cw + 4w + 9w^2, w = C//r, d = depth; no u for "
    "d = 0; 3w^2 for 9w^2 at rank 1, 27w^2 at rank 3; another unit where the source projects",
    count=count,
    identity=blend_pair(),
    constraints=("C >= reduction",),
    limits=(
        "PT2E int8: torchao's quantizer takes the integers that positions are counted with for "
        "values, and raises",
    ),
    deviations=(
        "it is the mask of the authors' attention module around a block of the network at hand, "
        "which takes the place of their trunk of two residual units, from the paper's text: "
        "the unit before both and the unit behind are those that the network has",
        "units, skips, the two last layers and the interpolation with aligned corners are those "
        "of the authors' Caffe networks; a PyTorch port adds further skips around the units",
        "depth is 3 from 56 x 56 on, 2 from 28 and 1 from 14, as in the authors' networks; below "
        "they have no attention, and here it pools no more and has no units",
        "pooling is centred on every second position, as in the PyTorch port; Caffe's windows "
        "begin at the border",
        "a unit goes first where the block's input has other channels or another size than its "
        "output; the size of no map is fixed",
        "ranks 1 and 3 are not the authors': pooling, units and interpolation run along every axis",
        ONE_VALUE,
    ),
    site_args=site_args,
    takes=("value", "source"),
)
class RAN(nn.Module):
    """Adds to the output of a block a copy that a mask of the block's input has passed through.

    Args:
        channels: C.
        rank: 1, 2 or 3.
        depth: d, how often the source is pooled; a plan takes it from the size of the site.
        reduction: by which the units' 3x3 convolutions are narrower than C.
        source_channels: channels of the block's input; None for C.
        stride: by how much the block's input is larger than its output.

    Shape:
        x (N, C, ...), source (N, source_channels, ...) -> (N, C, ...)
    """

    def __init__(
        self,
        channels: int,
        *,
        rank: int = 2,
        depth: Literal[0, 1, 2, 3] = 3,
        reduction: int = 4,
        source_channels: int | None = None,
        stride: int | tuple[int, ...] = 1,
    ) -> None:
        super().__init__()
        source = source_channels or channels

        def chain(length: int) -> nn.ModuleList:
            return nn.ModuleList(
                Unit(channels, channels, rank=rank, reduction=reduction) for _ in range(length)
            )

        self.enter: nn.Module = nn.Identity()
        if projects(source, channels, stride):
            self.enter = Unit(source, channels, rank=rank, reduction=reduction, stride=stride)
        self.down = chain(depth)
        self.bottom = chain(min(depth, 1))
        self.skip = chain(max(depth - 1, 0))
        self.up = chain(max(depth - 1, 0))
        self.mask = nn.Sequential(
            *(BatchNorm(channels), nn.ReLU(), CONV[rank](channels, channels, 1, bias=False)),
            *(BatchNorm(channels), nn.ReLU(), CONV[rank](channels, channels, 1, bias=False)),
        )

    def forward(self, x: Tensor, source: Tensor) -> Tensor:
        """Returns `x` times 1 to 2."""
        z, passed = self.enter(source), []
        for unit in self.down:
            z = unit(halved_max(z))
            passed.append(z)
        for unit in self.bottom:
            z = unit(z)
        for skip, up, before in zip(self.skip, self.up, reversed(passed[:-1]), strict=True):
            z = up(skip(before) + interpolate_to(z, before))
        mask = self.mask(interpolate_to(z, x)).sigmoid()
        return x * (1 + mask.to(x.dtype))
