"""Spatial group-wise enhance: positions that agree with the mean of their group are kept.

    t = sum over the group's channels of x * mean(x), at every position
    y = x * sigmoid(w * (t - mean(t)) / (std(t) + 1e-5) + b), w and b one a group

Li et al., "Spatial Group-wise Enhance: Improving Semantic Feature Learning in Convolutional
Networks", arXiv 2019, https://arxiv.org/abs/1905.09646
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.fx
from torch import Tensor, nn

from attnsurgeon.attention.gradients import applied
from attnsurgeon.attention.identity import Gate, native
from attnsurgeon.attention.partition import groups_of
from attnsurgeon.attention.pictures import multiplied
from attnsurgeon.attention.precision import wide, without_autocast
from attnsurgeon.attention.registry import mechanism
from attnsurgeon.attention.shapes import freedom, unflatten

GROUPS = 64


class _Agreement(torch.autograd.Function):
    """x (N, G, C, P) -> (N, G, 1, P): every position's product with the mean of all positions.

    In plain operations the backward would pass over x twice more, and forget its layout.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        center = x.sum(3, keepdim=True) * (1 / x.shape[3])
        if x.stride(3) == 1:
            return center.transpose(-2, -1) @ x
        return (center * x).sum(2, keepdim=True)  # a product would first copy x

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, by_product: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        scale = 1 / x.shape[3]
        center = x.sum(3, keepdim=True) * scale
        if x.stride(3) == 1:
            return torch.addcmul(
                (by_product @ x.transpose(-2, -1)).transpose(-2, -1) * scale, center, by_product
            )
        by_center = (by_product * x).sum(3, keepdim=True) * scale
        terms = (term.permute(0, 3, 1, 2) for term in (by_center, center, by_product))
        return torch.addcmul(*terms).permute(0, 2, 3, 1)


@torch.fx.wrap
def standing(x: Tensor) -> Tensor:
    """Returns t (N, G, 1, P) with mean 0 and deviation 1, of groups (N, G, C / G, P).

    In float32 at least, and not in autocast: the differences that are left by the mean are small,
    and the squares of half-precision values overflow.
    """
    with without_autocast(x):
        t = applied(_Agreement, x.to(wide(x)))
        t = t - t.mean(3, keepdim=True)
        # a norm, unlike a square root, has a gradient where there is no deviation: zero
        size = torch.linalg.vector_norm(t, dim=3, keepdim=True)
        return t / (size * freedom(x.shape[3]) ** -0.5 + 1e-5)


def group_count(channels: int, groups: int | None) -> int:
    """Returns the number of groups, by default the largest that divides both 64 and C."""
    return groups_of(channels, groups) if groups else math.gcd(channels, GROUPS)


def count(channels: int, groups: int | None) -> int:
    """Returns the number of parameters."""
    return 2 * group_count(channels, groups)


@mechanism(
    "sge",
    kind="gate",
    ranks=(1, 2, 3),
    placement="block-branch",
    picture=multiplied("both", how="the gate of each position, a map for each group of channels"),
    formula="2G",
    count=count,
    identity=native("", how="w and b start at zero and the gate is 2 * sigmoid, so it starts at 1"),
    constraints=("C is a multiple of groups",),
    deviations=(
        "64 groups as in the authors' ResNets; where C is no multiple of 64, the largest number "
        "that divides both",
        "a map of one position has no deviation, where the unbiased deviation is undefined",
        "t is computed in float32 also for half-precision values",
        "ranks 1 and 3 are not the authors'",
    ),
    limits=(
        "pruning: it has one weight for each of a fixed number of groups, and a pruner takes "
        "single channels out of groups; let it ignore the layer before",
    ),
    spatial=False,
)
class SGE(nn.Module):
    """Reweights the positions of each group by their likeness to the group's mean.

    Args:
        channels: C.
        rank: 1, 2 or 3.
        groups: G; None for 64, or the largest number that divides 64 and C.

    Shape:
        x (N, C, ...) -> (N, C, ...)
    """

    def __init__(self, channels: int, *, rank: int = 2, groups: int | None = None) -> None:
        super().__init__()
        self.groups = group_count(channels, groups)
        self.weight = nn.Parameter(torch.zeros(self.groups))
        self.bias = nn.Parameter(torch.ones(self.groups))
        self.gate = Gate()

    def forward(self, x: Tensor) -> Tensor:
        """Returns `x` times the gates of its positions."""
        groups = unflatten(x, 1, (self.groups, -1)).flatten(3)  # (N, G, C / G, P)
        weight, bias = self.weight[:, None, None], self.bias[:, None, None]
        gate = self.gate(torch.addcmul(bias, standing(groups), weight))
        return unflatten((groups * gate.to(x.dtype)).flatten(1, 2), 2, x.shape[2:])

    def extra_repr(self) -> str:
        """Returns the groups, whose number the parameters do not show."""
        return f"groups={self.groups}"
