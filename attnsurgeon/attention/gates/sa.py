"""Shuffle attention: half the channels of a group get a channel gate, the others a spatial one.

    [a, b] = the halves of a group of channels
    a' = a * sigmoid(w1 * mean(a) + b1)
    b' = b * sigmoid(w2 * groupnorm(b) + b2), every channel a norm group of its own
    y = shuffle([a', b'] of every group): the two halves of all channels interleaved

Zhang et al., "SA-Net: Shuffle Attention for Deep Convolutional Neural Networks", ICASSP 2021,
https://arxiv.org/abs/2102.00240
"""

from __future__ import annotations

from typing import Any

import torch
import torch.fx
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from attnsurgeon.attention.identity import Gate, Identity, open_gates
from attnsurgeon.attention.partition import groups_of, most_groups
from attnsurgeon.attention.pooling import Mean, mean
from attnsurgeon.attention.registry import mechanism
from attnsurgeon.attention.shapes import extent, positions

PUBLISHED_GROUPS = 64
EPS = 1e-5


def split(channels: int, groups: int | None) -> int:
    """Returns the number of groups: as given, or the authors' 64 or what C allows below that."""
    if groups is None:
        return most_groups(channels, PUBLISHED_GROUPS, parts=2)
    return groups_of(channels, groups, parts=2)


def count(channels: int, groups: int | None) -> int:
    """Returns the number of parameters."""
    return 6 * (channels // (2 * split(channels, groups)))


class _HalfGates(torch.autograd.Function):
    """Gates the first half of each group by `by_channel` and the second by its normed values.

    The gate of the second half, gain * sigmoid(slope * norm(b) + level), is the only value of a
    full-size kind that is kept for the backward; the norm is worked out again from its input.

    Shape:
        x (N, G, 2, c, ...), by_channel (N, G, c, 1, ...), slope and level (c, 1, ...)
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, by_channel: Tensor, slope: Tensor, level: Tensor, gain: float
    ) -> Tensor:
        axes = tuple(range(3, x.dim() - 1))
        second = x[:, :, 1].to(slope.dtype)
        center = mean(second, axes, keepdim=True)
        normed = second - center
        n = extent(second, axes)
        spread = torch.linalg.vector_norm(normed, dim=axes, keepdim=True).square() * (1 / n)
        scale = (spread + EPS).rsqrt()
        gate = normed.mul_(scale * slope).add_(level).sigmoid_().mul_(gain).to(x.dtype)
        y = x.clone()
        y[:, :, 0].mul_(by_channel)
        y[:, :, 1].mul_(gate)
        ctx.save_for_backward(x, by_channel, slope, center, scale, gate)
        ctx.axes, ctx.gain = axes, gain
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, None]:
        x, by_channel, slope, center, scale, gate = ctx.saved_tensors
        second, grad_second = x[:, :, 1].to(slope.dtype), grad[:, :, 1]
        result = grad.clone()
        result[:, :, 0].mul_(by_channel)
        result[:, :, 1].mul_(gate)
        for_channel = (grad[:, :, 0] * x[:, :, 0]).sum(ctx.axes, keepdim=True)
        # `slant` is the gradient of slope * norm(b) + level, then that of the norm goes on to b.
        slant = torch.addcmul(gate, gate, gate, value=-1 / ctx.gain).to(slope.dtype)
        slant.mul_(second).mul_(grad_second)
        for_level = slant.sum(ctx.axes, keepdim=True)
        for_slope = ((slant * second).sum(ctx.axes, keepdim=True) - center * for_level) * scale
        share = scale * slope * (-1 / extent(second, ctx.axes))
        tilt = share * for_slope * scale
        result[:, :, 1].add_(torch.addcmul(share * for_level - tilt * center, second, tilt))
        result[:, :, 1].addcmul_(slant.to(x.dtype), (scale * slope).to(x.dtype))
        return result, for_channel, for_slope.sum((0, 1)), for_level.sum((0, 1)), None


@torch.fx.wrap
def half_gates(x: Tensor, by_channel: Tensor, slope: Tensor, level: Tensor, gain: float) -> Tensor:
    """Returns `x` (N, G, 2, c, ...) gated; the norm is computed in float32 at least."""
    wide = torch.promote_types(x.dtype, torch.float32)
    ones = (1,) * (x.dim() - 4)
    by_channel = by_channel.to(x.dtype).reshape(*by_channel.shape, *ones)
    slope, level = (z.to(wide).reshape(-1, *ones) for z in (slope, level))
    return _HalfGates.apply(x, by_channel, slope, level, gain)


def start(module: nn.Module, replaced: nn.Module | None) -> nn.Module:
    """Opens both kinds of gate, and leaves the channels in the order in which they come."""
    assert isinstance(module, SA)
    for parameter in (module.channel_weight, module.channel_bias):
        nn.init.zeros_(parameter)
    for parameter in (module.spatial_weight, module.spatial_bias):
        nn.init.zeros_(parameter)
    open_gates(module)
    module.shuffled = False
    return module


@mechanism(
    "sa",
    kind="gate",
    ranks=(2, 3),
    placement="residual-branch",
    formula="6C/(2G)",
    count=count,
    identity=Identity(
        "native",
        "both gates are 2 * sigmoid and start at 1, and the channels keep their order: a layer "
        "after it that mixes channels cannot tell",
        start,
    ),
    constraints=("C is even", "2 * groups divides C"),
    deviations=(
        "groups is the authors' 64 where that divides C, else the largest number below 64 that "
        "does: 32 for C = 64, where their code fails",
        "under the identity start the channels are not shuffled: the pretrained layers after it "
        "expect each where it was",
    ),
    spatial=False,
)
class SA(nn.Module):
    """Gates half of each group's channels by their means, the others by their positions.

    Args:
        channels: C.
        rank: 2 or 3.
        groups: G, each of 2 halves; None for 64, or the most below that C allows.

    Shape:
        x (N, C, ...) -> (N, C, ...)
    """

    def __init__(self, channels: int, *, rank: int = 2, groups: int | None = None) -> None:
        super().__init__()
        self.groups = split(channels, groups)
        width = channels // (2 * self.groups)
        self.pool = Mean(axes=positions(rank + 1)[1:])
        self.channel_weight = nn.Parameter(torch.zeros(width))
        self.channel_bias = nn.Parameter(torch.ones(width))
        self.norm_weight = nn.Parameter(torch.ones(width))
        self.norm_bias = nn.Parameter(torch.zeros(width))
        self.spatial_weight = nn.Parameter(torch.zeros(width))
        self.spatial_bias = nn.Parameter(torch.ones(width))
        self.gate = Gate()
        self.shuffled = True

    def forward(self, x: Tensor) -> Tensor:
        """Returns `x` gated, its channels shuffled as the authors do."""
        halves = x.unflatten(1, (self.groups, 2, -1))  # (N, G, 2, c, ...)
        pooled = self.pool(halves[:, :, 0])  # (N, G, c)
        by_channel = self.gate(pooled * self.channel_weight + self.channel_bias)
        slope = self.spatial_weight * self.norm_weight
        level = self.spatial_weight * self.norm_bias + self.spatial_bias
        y = half_gates(halves, by_channel, slope, level, self.gate.gain).flatten(1, 3)
        return torch.channel_shuffle(y, 2) if self.shuffled else y

    def extra_repr(self) -> str:
        """Returns what no submodule shows."""
        return f"groups={self.groups}, shuffled={self.shuffled}"
