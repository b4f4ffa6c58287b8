"""Criss-cross attention: each position attends to those in its own row and its own column.

    a = softmax of q(x) . k(x') over all x' in the row and the column of x, itself once
    y = x + gamma * (sum of a * v(x'))

Huang et al., "CCNet: Criss-Cross Attention for Semantic Segmentation", ICCV 2019,
https://arxiv.org/abs/1811.11721
"""

from __future__ import annotations

import torch
import torch.fx
from torch import Tensor, nn
from torch.nn import functional as F

from attnsurgeon.attention.checks import hidden_width
from attnsurgeon.attention.identity import native
from attnsurgeon.attention.precision import wide, without_autocast
from attnsurgeon.attention.registry import mechanism
from attnsurgeon.attention.shapes import CONV

CONVOLVE = {2: F.conv2d, 3: F.conv3d}


def scores(q: Tensor, k: Tensor, axis: int) -> Tensor:
    """Returns q . k for all pairs on lines along an axis of (N, ..., C): (N, ..., L)."""
    q, k = q.transpose(axis, -2), k.transpose(axis, -2)
    pairs = q @ k.transpose(-1, -2)  # (N, ..., L, L)
    if axis < q.dim() - 2:  # the last axis is the one along which a position sees itself
        pairs = pairs + pairs.new_full((pairs.shape[-1],), -torch.inf).diag()
    return pairs.transpose(axis, -2)


def gather(weights: Tensor, v: Tensor, axis: int) -> Tensor:
    """Returns the weighted sums of the values of each position's line along an axis."""
    return (weights.transpose(axis, -2) @ v.transpose(axis, -2)).transpose(axis, -2)


@torch.fx.wrap
def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Returns (N, C, ...): for each position the values of its lines, weighed by q . k.

    The scores and their softmax are in float32 at least.
    """
    q, k, v = q.movedim(1, -1), k.movedim(1, -1), v.movedim(1, -1)
    axes = range(1, v.dim() - 1)
    with without_autocast(q):
        q, k = q.to(wide(q)), k.to(wide(k))
        weights = torch.cat([scores(q, k, axis) for axis in axes], dim=-1).softmax(-1).to(v.dtype)
        parts = weights.split([v.shape[axis] for axis in axes], dim=-1)
        total = gather(parts[-1], v, axes[-1])
        for axis in axes[:-1]:
            total = total + gather(parts[axis - 1], v, axis)
    return total.movedim(-1, 1)


def count(channels: int, reduction: int) -> int:
    """Returns the number of parameters."""
    m = hidden_width(channels, reduction)
    return 2 * (channels * m + m) + channels * channels + channels + 1


@mechanism(
    "crisscross",
    kind="gate",
    ranks=(2, 3),
    placement="head",
    formula="2(C(C//8) + C//8) + C^2 + C + 1",
    count=count,
    identity=native(how="gamma starts at zero, as in the paper"),
    constraints=("C >= reduction",),
    deviations=(
        "recurrence is 1, the default of the authors' code; their segmentation networks set 2, so "
        "that every position has seen every other",
        "at rank 3 a position attends to the three lines through it, as in the authors' extension "
        "to clips, and to itself once; a copy for volumes counts it twice",
        "scores and softmax are computed in float32 also for half-precision values",
        "the key's bias is kept to have the authors' parameters; it adds the same to all scores "
        "of a softmax, so it cannot learn",
    ),
    inert=("key.bias",),
)
class CrissCross(nn.Module):
    """Adds to each position what it finds along the lines through it.

    Args:
        channels: C.
        rank: 2 or 3.
        reduction: by which queries and keys are narrower.
        recurrence: how often the same attention is applied.

    Shape:
        x (N, C, ...) -> (N, C, ...)
    """

    def __init__(
        self, channels: int, *, rank: int = 2, reduction: int = 8, recurrence: int = 1
    ) -> None:
        super().__init__()
        m = hidden_width(channels, reduction)
        self.query = CONV[rank](channels, m, 1)
        self.key = CONV[rank](channels, m, 1)
        self.value = CONV[rank](channels, channels, 1)
        self.gamma = nn.Parameter(torch.zeros(1))
        self.convolve = CONVOLVE[rank]
        self.recurrence = recurrence

    def forward(self, x: Tensor) -> Tensor:
        """Returns `x` plus gamma times what its lines hold."""
        # gamma * (W x + b) = (gamma W) x + gamma b: so its gradient needs no map of full size.
        assert self.value.bias is not None
        weight, bias = self.gamma * self.value.weight, self.gamma * self.value.bias
        for _ in range(self.recurrence):
            v = self.convolve(x, weight, bias)
            x = x + attend(self.query(x), self.key(x), v).to(x.dtype)
        return x
