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

from attnsurgeon.attention.gradients import applied
from attnsurgeon.attention.identity import Identity
from attnsurgeon.attention.partition import groups_of, most_groups
from attnsurgeon.attention.pictures import Picture, Seen
from attnsurgeon.attention.pooling import mean
from attnsurgeon.attention.precision import wide
from attnsurgeon.attention.registry import mechanism
from attnsurgeon.attention.shapes import extent, shuffle, unflatten

PUBLISHED_GROUPS = 64
EPS = 1e-5


def split(channels: int, groups: int | None) -> int:
    """Returns the number of groups: as given, or the authors' 64 or what C allows below that."""
    if groups is None:
        return most_groups(channels, PUBLISHED_GROUPS, parts=2)
    return groups_of(channels, groups, parts=2)


def gates(seen: Seen) -> dict[str, Tensor]:
    """Returns the gates (N, C, ...) of the channels as they come in, before they are shuffled."""
    by_channel, by_position = seen.results["sigmoid"][-2:]  # (N, G, c, ...) each
    halves = torch.stack((by_channel.expand_as(by_position), by_position), dim=2)
    return {"both": halves.flatten(1, 3)}


def count(channels: int, groups: int | None) -> int:
    """Returns the number of parameters."""
    return 6 * (channels // (2 * split(channels, groups)))


def _gated(
    x: Tensor, weight: Tensor, bias: Tensor, slope: Tensor, level: Tensor, gain: float
) -> tuple[Tensor, ...]:
    """Returns what comes out of `_HalfGates`, and what its backward needs besides its arguments."""
    axes = tuple(range(3, x.dim() - 1))
    first, second = (x[:, :, half].to(slope.dtype) for half in (0, 1))
    pooled = mean(first, axes, keepdim=True)
    by_channel = (weight * pooled + bias).sigmoid_().mul_(gain)
    center = mean(second, axes, keepdim=True)
    normed = second - center
    spread = torch.linalg.vector_norm(normed, dim=axes, keepdim=True).square()
    scale = (spread * (1 / extent(second, axes)) + EPS).rsqrt()
    gate = normed.mul_(scale * slope).add_(level).sigmoid_().mul_(gain).to(x.dtype)
    y = x.clone()
    y[:, :, 0].mul_(by_channel)
    y[:, :, 1].mul_(gate)
    return y, pooled, by_channel, center, scale, gate


class _HalfGates(torch.autograd.Function):
    """Gates the two halves [a, b] of every group, and keeps b's gate alone for the backward.

        a * gain * sigmoid(weight * mean(a) + bias)
        b * gain * sigmoid(slope * norm(b) + level)

    Shape:
        x (N, G, 2, c, ...), the parameters (c, 1, ...)
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(
        x: Tensor, weight: Tensor, bias: Tensor, slope: Tensor, level: Tensor, gain: float
    ) -> tuple[Tensor, ...]:
        return _gated(x, weight, bias, slope, level, gain)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        x, weight, _, slope, _, gain = inputs
        _, *kept = output
        ctx.mark_non_differentiable(*kept)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, weight, slope, *kept)
        ctx.axes, ctx.gain = tuple(range(3, x.dim() - 1)), gain

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
        if grad is None:  # where all are materialised, so is one of the size of the gate
            return (None,) * 6
        x, weight, slope, pooled, by_channel, center, scale, gate = ctx.saved_tensors
        axes, share = ctx.axes, 1 / extent(gate, ctx.axes)
        first, second = (x[:, :, half].to(slope.dtype) for half in (0, 1))
        result = grad.clone()
        # Through a's gate, to its mean, and from there to every position of a.
        by_mean = (grad[:, :, 0] * first).sum(axes, keepdim=True)
        by_mean = by_mean * by_channel * (1 - by_channel * (1 / ctx.gain))
        result[:, :, 0].mul_(by_channel).add_(by_mean * weight * share)
        # Through b's gate, to its norm, and from there to mean and deviation of b.
        by_norm = torch.addcmul(gate, gate, gate, value=-1 / ctx.gain).to(slope.dtype)
        by_norm.mul_(second).mul_(grad[:, :, 1])
        for_level = by_norm.sum(axes, keepdim=True)
        for_slope = ((by_norm * second).sum(axes, keepdim=True) - center * for_level) * scale
        tilt = -share * scale.square() * slope * for_slope
        shift = -share * scale * slope * for_level - tilt * center
        by_norm.mul_(scale * slope).add_(shift)
        result[:, :, 1].mul_(gate).add_(torch.addcmul(by_norm, second, tilt))
        return (
            result,
            (by_mean * pooled).sum((0, 1)),
            by_mean.sum((0, 1)),
            for_slope.sum((0, 1)),
            for_level.sum((0, 1)),
            None,
        )


@torch.fx.wrap
def half_gates(x: Tensor, *parameters: Tensor, gain: float) -> Tensor:
    """Returns `x` (N, G, 2, c, ...) gated; the gates are computed in float32 at least."""
    shape = (-1, *(1 for _ in range(x.dim() - 4)))
    shaped = (p.to(wide(x)).reshape(shape) for p in parameters)
    return applied(_HalfGates, x, *shaped, gain)[0]


def start(module: nn.Module, replaced: nn.Module | None) -> nn.Module:
    """Opens both kinds of gate, and leaves the channels in the order in which they come."""
    assert isinstance(module, SA)
    for parameter in (module.channel_weight, module.channel_bias):
        nn.init.zeros_(parameter)
    for parameter in (module.spatial_weight, module.spatial_bias):
        nn.init.zeros_(parameter)
    module.gain, module.shuffled = 2.0, False
    return module


@mechanism(
    "sa",
    kind="gate",
    ranks=(1, 2, 3),
    placement="block-branch",
    picture=Picture(
        ("both",), "the gates of both halves, in the order in which the channels come in", gates
    ),
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
    limits=(
        "pruning: where a group has more than two channels, from C = 256 on by default, a pruner "
        "takes the parameters of a group for those of channels, and comes to no end",
        'PT2E int8: the error is four times that of the bare network, under init="paper" sixteen '
        "times",
    ),
    spatial=False,
)
class SA(nn.Module):
    """Gates half of each group's channels by their means, the others by their positions.

    Args:
        channels: C.
        rank: 1, 2 or 3.
        groups: G, each of 2 halves; None for 64, or the most below that C allows.

    Shape:
        x (N, C, ...) -> (N, C, ...)
    """

    def __init__(self, channels: int, *, rank: int = 2, groups: int | None = None) -> None:
        super().__init__()
        self.groups = split(channels, groups)
        width = channels // (2 * self.groups)
        self.channel_weight = nn.Parameter(torch.zeros(width))
        self.channel_bias = nn.Parameter(torch.ones(width))
        self.spatial_weight = nn.Parameter(torch.zeros(width))
        self.spatial_bias = nn.Parameter(torch.ones(width))
        self.norm_weight = nn.Parameter(torch.ones(width))
        self.norm_bias = nn.Parameter(torch.zeros(width))
        self.gain, self.shuffled = 1.0, True

    def forward(self, x: Tensor) -> Tensor:
        """Returns `x` gated, its channels shuffled as the authors do."""
        slope = self.spatial_weight * self.norm_weight
        level = self.spatial_weight * self.norm_bias + self.spatial_bias
        parameters = (self.channel_weight, self.channel_bias, slope, level)
        width = self.channel_weight.shape[0]
        halves = unflatten(
            x, 1, (-1, 2, width)
        )  # (N, G, 2, c, ...): pruned, there are fewer groups
        y = half_gates(halves, *parameters, gain=self.gain).flatten(1, 3)
        return shuffle(y, 2) if self.shuffled else y

    def extra_repr(self) -> str:
        """Returns what no submodule shows."""
        return f"groups={self.groups}, gain={self.gain:g}, shuffled={self.shuffled}"
