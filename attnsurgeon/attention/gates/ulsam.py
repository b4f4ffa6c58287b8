"""Subspace attention: each group of channels is lit by one map of weights that sum to 1.

    z = maxpool_3x3(relu(batchnorm(w * x + b))), w and b a channel
    a = softmax over positions of relu(batchnorm(v . z + c)), v and c a group
    y = x + a * x

Saini et al., "ULSAM: Ultra-Lightweight Subspace Attention Module for Compact Convolutional Neural
Networks", WACV 2020, https://arxiv.org/abs/2006.15102
"""

from __future__ import annotations

import torch
import torch.fx
from torch import Tensor, nn
from torch.nn import functional as F

from attnsurgeon.attention.identity import blend
from attnsurgeon.attention.maxima import WindowMax
from attnsurgeon.attention.norms import ONE_VALUE, BatchNorm
from attnsurgeon.attention.partition import groups_of
from attnsurgeon.attention.pictures import multiplied
from attnsurgeon.attention.precision import wide
from attnsurgeon.attention.registry import mechanism
from attnsurgeon.attention.shapes import per_channel, unflatten


@torch.fx.wrap
def over_positions(scores: Tensor) -> Tensor:
    """Returns the softmax of each channel of `scores` (N, G, ...), in float32 at least."""
    return scores.flatten(2).softmax(2, dtype=wide(scores)).to(scores.dtype).view_as(scores)


@torch.fx.wrap
def weigh(z: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Returns (N, G, ...): each group's channels weighed by its row of `weight` and added."""
    parts = unflatten(z, 1, (len(weight), -1)).flatten(3)  # (N, G, C / G, P)
    sums = (weight.unsqueeze(1) @ parts).squeeze(2) + bias.unsqueeze(1)
    return unflatten(sums, 2, z.shape[2:])


def count(channels: int, groups: int) -> int:
    """Returns the number of parameters."""
    return 5 * channels + 3 * groups_of(channels, groups)


@mechanism(
    "ulsam",
    kind="gate",
    ranks=(1, 2, 3),
    placement="block",
    picture=multiplied("both", how="1 + a, a map for each group of channels"),
    formula="5C + 3g",
    count=count,
    identity=blend(),
    constraints=("groups divides C",),
    deviations=(
        "the groups' layers are kept as one layer each, where the authors' code has a set of "
        "modules for every group",
        "groups is 4, one of the numbers that the paper compares; the authors' code has no default",
        "the biases straight before a batch norm are kept to have the authors' parameters; they "
        "cannot learn while it uses batch statistics",
        "ranks 1 and 3 are not the authors': the window of the maximum is 3 long, or 3x3x3",
        ONE_VALUE,
    ),
    limits=(
        "pruning: a pruner takes the parameters of its groups for those of channels, and comes to "
        "no end",
        'PT2E int8: under init="paper" the error is four times that of the bare network',
    ),
    unmoved=("bias", "point_bias"),
)
class ULSAM(nn.Module):
    """Adds to each group of channels a copy of itself that is weighed by position.

    Args:
        channels: C.
        rank: 1, 2 or 3.
        groups: g, each of C / g channels, with a map of its own.

    Shape:
        x (N, C, ...) -> (N, C, ...)
    """

    def __init__(self, channels: int, *, rank: int = 2, groups: int = 4) -> None:
        super().__init__()
        self.rank = rank
        self.groups = groups_of(channels, groups)
        self.weight = nn.Parameter(torch.empty(channels))
        self.bias = nn.Parameter(torch.empty(channels))
        self.norm = BatchNorm(channels, momentum=0.9)
        self.window = WindowMax(rank=rank)
        self.point = nn.Parameter(torch.empty(groups, channels // groups))
        self.point_bias = nn.Parameter(torch.empty(groups))
        self.point_norm = BatchNorm(groups, momentum=0.9)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Starts as the authors' 1x1 convolutions do, of one channel and of C / g channels."""
        bound = self.point.shape[1] ** -0.5
        for parameter, limit in (
            (self.weight, 1.0),
            (self.bias, 1.0),
            (self.point, bound),
            (self.point_bias, bound),
        ):
            nn.init.uniform_(parameter, -limit, limit)

    def forward(self, x: Tensor) -> Tensor:
        """Returns `x` plus its copy, each group weighed by its map."""
        weight, bias = (per_channel(z[None], self.rank) for z in (self.weight, self.bias))
        z = self.norm(torch.addcmul(bias, x, weight)).relu_()
        scores = self.point_norm(weigh(self.window(z), self.point, self.point_bias))
        lit = over_positions(F.relu(scores)).to(x.dtype)  # (N, g, ...)
        parts = unflatten(x, 1, (self.groups, -1))  # (N, g, C / g, ...)
        return (parts * (1 + lit).unsqueeze(2)).flatten(1, 2)
