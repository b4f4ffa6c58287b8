"""Gather-excite: a channel's context is gathered over an extent, and gates every position in it.

    y = x * interpolate(sigmoid(z)), to the nearest
    z = mean over windows of 2 * extent - 1, or over the whole map            (theta-minus)
    z = batchnorm(depthwise convolutions of stride 2, or one over the map)    (theta)
    z = W2 relu(W1 relu(that of theta))                                       (theta-plus)

Hu et al., "Gather-Excite: Exploiting Feature Context in Convolutional Neural Networks",
NeurIPS 2018, https://arxiv.org/abs/1810.12348
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.fx
from torch import Tensor, nn

from attnsurgeon.attention.checks import are_tokens, hidden_width, map_size
from attnsurgeon.attention.identity import Blend, Gate, Identity, open_gates, zero
from attnsurgeon.attention.norms import ONE_VALUE, BatchNorm
from attnsurgeon.attention.pictures import multiplied
from attnsurgeon.attention.pooling import Mean
from attnsurgeon.attention.registry import mechanism
from attnsurgeon.attention.resampling import adaptive, along, spread_to, windows
from attnsurgeon.attention.shapes import CONV, positions
from attnsurgeon.errors import MechanismError

Gather = Literal["theta-minus", "theta", "theta-plus"]


def layers(extent: int) -> int:
    """Returns how many layers of stride 2 reach over the extent, a power of two."""
    number = int(math.log2(extent))
    if extent < 2 or 2**number != extent:
        raise MechanismError(
            f"extent={extent} is no power of two",
            f"use extent={max(2, 2**number)}, or none for the whole map",
        )
    return number


@torch.fx.wrap
def window_means(x: Tensor, extent: int) -> Tensor:
    """Returns the mean of each window, one every `extent` positions."""
    means = x
    for axis in reversed(range(2, x.dim())):
        means = along(means, axis, windows(x.shape[axis], extent, x), like=x)
    return means


@torch.fx.wrap
def weighted_sum(x: Tensor, weight: Tensor) -> Tensor:
    """Returns (N, C, 1, ...): the sum over all positions of `x` times `weight` (C, ...).

    A map of another size is pooled to that of the weight.
    """
    weight = weight.unsqueeze(0).to(x.dtype)
    for axis in range(2, x.dim()):
        length, side = x.shape[axis], weight.shape[axis]
        if length != side:  # spreading the weight is the same as pooling x, and less work
            weight = along(weight, axis, adaptive(length, side, x).T, like=weight)
    return (x * weight).sum(tuple(range(2, x.dim())), keepdim=True)


@torch.fx.wrap
def spread(gate: Tensor, like: Tensor) -> Tensor:
    """Returns the gate interpolated to the size of `like`, each position from the nearest."""
    return spread_to(gate, like)


class Windows(nn.Module):
    """Means over windows that overlap by half.

    Shape:
        x (N, C, ...) -> (N, C, ...), smaller by the extent, rounded up
    """

    def __init__(self, extent: int) -> None:
        super().__init__()
        self.extent = 2 ** layers(extent)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the means."""
        return window_means(x, self.extent)


class Whole(nn.Module):
    """A depthwise convolution as large as the map.

    Shape:
        x (N, C, ...) -> (N, C, 1, ...)
    """

    def __init__(self, channels: int, size: tuple[int, ...]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, *size))
        nn.init.normal_(self.weight, std=math.sqrt(2 / math.prod(size)))

    def forward(self, x: Tensor) -> Tensor:
        """Returns the weighted sums."""
        return weighted_sum(x, self.weight)


def strided(channels: int, rank: int, extent: int) -> nn.Sequential:
    """Returns depthwise convolutions of stride 2, with norms and ReLUs between them."""
    chain: list[nn.Module] = []
    for _ in range(layers(extent)):
        chain += [BatchNorm(channels), nn.ReLU()] if chain else []
        conv = CONV[rank](channels, channels, 3, 2, 1, groups=channels, bias=False)
        nn.init.kaiming_normal_(conv.weight)
        chain.append(conv)
    return nn.Sequential(*chain)


def bottleneck(channels: int, rank: int, reduction: int) -> nn.Sequential:
    """Returns the two layers of theta-plus, and the ReLUs before them."""
    m = hidden_width(channels, reduction)
    chain = [nn.ReLU(), CONV[rank](channels, m, 1), nn.ReLU(), CONV[rank](m, channels, 1)]
    for layer in chain[1::2]:
        nn.init.normal_(layer.get_parameter("weight"), std=0.01)
        nn.init.zeros_(layer.get_parameter("bias"))
    return nn.Sequential(*chain)


def count(
    channels: int,
    rank: int,
    gather: Gather,
    extent: int | None,
    reduction: int,
    size: tuple[int, ...] | None,
) -> int:
    """Returns the number of parameters."""
    if gather == "theta-minus":
        return 0
    m = hidden_width(channels, reduction) if gather == "theta-plus" else 0
    excite = 2 * channels * m + m + channels if m else 0
    if extent is None:
        return channels * math.prod(map_size(size, rank)) + 2 * channels + excite
    return layers(extent) * (3**rank * channels + 2 * channels) + excite


def site_args(
    size: tuple[int, ...], rank: int, gather: Gather, extent: int | None
) -> dict[str, tuple[int, ...]]:
    """Returns the size of the map where there is a weight for every position of it."""
    if are_tokens(size, rank) and (gather != "theta-minus" or extent is not None):
        raise MechanismError(
            "here are tokens, and it needs a map of positions", "use gather='theta-minus'"
        )
    return {"size": size} if gather != "theta-minus" and extent is None else {}


def start(module: nn.Module, replaced: nn.Module | None) -> nn.Module:
    """Starts as the identity: natively where there is a last layer, else by a blend."""
    assert isinstance(module, GE)
    if module.last_layer is None:
        return Blend(module)
    zero(module, module.last_layer)
    open_gates(module)
    return module


@mechanism(
    "ge",
    kind="gate",
    ranks=(1, 2, 3),
    bottleneck=("excite.1",),
    placement="block-branch",
    picture=multiplied(
        "channel", how="the gate of each channel; with an extent that differs by position, as both"
    ),
    formula="theta-minus 0; theta CHW + 2C, or log2(extent) (9C + 2C); theta-plus + "
    "2C(C//r) + C//r + C; at rank 1 L for HW and 3 for 9, at rank 3 DHW and 27",
    count=count,
    identity=Identity(
        "blend",
        "theta-minus has nothing to zero: y = x + g * (mechanism(x) - x), learnable g = 0; theta "
        "and theta-plus start natively: the last layer is zero and the gate 2 * sigmoid",
        start,
    ),
    constraints=(
        "theta and theta-plus over the whole map need size=(H, W); a plan takes it from the site",
        "extent is a power of two",
        "C >= reduction for theta-plus",
    ),
    deviations=(
        "theta-minus is the default, for it needs to know nothing but C; the paper's strongest "
        "form is gather=theta-plus",
        "the depthwise convolutions have no bias, as in the authors' Caffe networks",
        "windows at the border average the positions inside the map",
        "a map of another size than theta was built for is pooled to that size; the authors' "
        "networks take one size only",
        "ranks 1 and 3 are not the authors': windows and kernels reach as far along every axis",
        ONE_VALUE,
    ),
    spatial=False,
    site_args=site_args,
)
class GE(nn.Module):
    """Reweights each channel by its own context, near or as wide as the map.

    Args:
        channels: C.
        rank: 1, 2 or 3.
        gather: "theta-minus" for means, "theta" for learned weights, "theta-plus" for these and
            two layers that let channels exchange what they gathered.
        extent: how far the context reaches, a power of two; None for the whole map.
        reduction: r, by which the hidden layer of theta-plus is narrower.
        size: the map's (H, W), for learned weights over the whole of it.

    Shape:
        x (N, C, ...) -> (N, C, ...)
    """

    def __init__(
        self,
        channels: int,
        *,
        rank: int = 2,
        gather: Gather = "theta-minus",
        extent: int | None = None,
        reduction: int = 16,
        size: tuple[int, ...] | None = None,
    ) -> None:
        super().__init__()
        self.gather: nn.Module
        self.norm: nn.Module = nn.Identity()
        self.excite: nn.Module = nn.Identity()
        self.last_layer: str | None = None
        if gather == "theta-minus":
            self.gather = Windows(extent) if extent else Mean(axes=positions(rank), keepdim=True)
        else:
            self.gather = (
                strided(channels, rank, extent) if extent else Whole(channels, map_size(size, rank))
            )
            self.norm = BatchNorm(channels)
            self.last_layer = "norm"
        if gather == "theta-plus":
            self.excite = bottleneck(channels, rank, reduction)
            self.last_layer = "excite.3"
        self.whole = extent is None
        self.gate = Gate()

    def forward(self, x: Tensor) -> Tensor:
        """Returns `x` times the gate of each position's context."""
        gate = self.gate(self.excite(self.norm(self.gather(x))))  # (N, C, ...), smaller or 1
        return x * (gate if self.whole else spread(gate, x)).to(x.dtype)
