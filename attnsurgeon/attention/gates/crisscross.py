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

from attnsurgeon.attention.checks import hidden_width
from attnsurgeon.attention.identity import native
from attnsurgeon.attention.pictures import Picture, Seen, index_of
from attnsurgeon.attention.precision import wide, without_autocast
from attnsurgeon.attention.registry import mechanism
from attnsurgeon.attention.shapes import CONV


def lines(z: Tensor, axis: int) -> Tensor:
    """Returns (N, ..., C, L): the lines along an axis of `z` (N, C, ...), one matrix each."""
    return z.transpose(axis, -1).movedim(1, z.dim() - 2)


def scores(q: Tensor, k: Tensor, axis: int) -> Tensor:
    """Returns q . k for all pairs on lines along an axis: (N, ..., L), one of `...` that axis."""
    pairs = lines(q, axis).transpose(-2, -1) @ lines(k, axis)  # (N, ..., L, L)
    if axis < q.dim() - 1:  # the last axis is the one along which a position sees itself
        length = torch.arange(pairs.shape[-1], device=pairs.device)
        pairs = pairs.masked_fill(length[:, None] == length, -torch.inf)
    return pairs.transpose(axis - 1, -2)


def gather(weights: Tensor, v: Tensor, axis: int) -> Tensor:
    """Returns (N, C, ...): the weighted sums of the values of each position's line."""
    sums = lines(v, axis) @ weights.transpose(axis - 1, -2).transpose(-2, -1)  # (N, ..., C, L)
    return sums.movedim(sums.dim() - 2, 1).transpose(axis, -1)


@torch.fx.wrap
def attend(q: Tensor, k: Tensor, v: Tensor, gamma: Tensor) -> list[Tensor]:
    """Returns for each axis gamma times the values of each position's line, weighed by q . k.

    The scores and their softmax over all lines are in float32 at least. It is the weights that
    gamma scales: so its gradient needs them, and no further map of full size.
    """
    axes = range(2, v.dim())
    with without_autocast(q):
        q, k = q.to(wide(q)), k.to(wide(k))
        weights = torch.cat([scores(q, k, axis) for axis in axes], dim=-1).softmax(-1)
        weights = (gamma * weights).to(v.dtype)
        parts = weights.split([v.shape[axis] for axis in axes], dim=-1)
        return [gather(part, v, axis) for part, axis in zip(parts, axes, strict=True)]


def looks(seen: Seen) -> dict[str, Tensor]:
    """Returns with which weights one position looks at those on its lines, (N, ...), and gamma.

    Of a recurrence the last time.
    """
    sides = seen.values[0].shape[2:]
    index = index_of(seen.position, sides)
    lines_of_it = seen.last("softmax")[(slice(None), *index)].split(list(sides), dim=-1)
    looked = lines_of_it[0].new_zeros(len(seen.values[0]), *sides)
    for axis, weights in enumerate(lines_of_it):
        line = (slice(None), *index[:axis], slice(None), *index[axis + 1 :])
        looked[line] += weights
    return {"attention": looked, "blend": seen.module.gamma.reshape(())}


def count(channels: int, reduction: int) -> int:
    """Returns the number of parameters."""
    m = hidden_width(channels, reduction)
    return 2 * (channels * m + m) + channels * channels + channels + 1


@mechanism(
    "crisscross",
    kind="gate",
    ranks=(2, 3),
    rank_reason="(a position attends to its row and its column; along a single axis that is "
    "attention to all)",
    placement="head",
    picture=Picture(
        ("attention", "blend"),
        "a, of the position that was asked for: 0 off its lines; blend is gamma",
        looks,
    ),
    formula="2(C(C//8) + C//8) + C^2 + C + 1",
    count=count,
    identity=native(how="gamma starts at zero, as in the paper"),
    constraints=("C >= reduction",),
    limits=(
        "pruning: Torch-Pruning is still at work after ten seconds on a network of three blocks; "
        "prune within attnsurgeon.disabled(model), and let it ignore the layers before",
        "PT2E int8: the error is four times that of the bare network, as energies and their "
        "softmax go through eight bits",
    ),
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
        self.rank = rank
        self.recurrence = recurrence

    def forward(self, x: Tensor) -> Tensor:
        """Returns `x` plus gamma times what its lines hold."""
        for _ in range(self.recurrence):
            found = attend(self.query(x), self.key(x), self.value(x), self.gamma)
            for axis in range(self.rank):
                x = x + found[axis].to(x.dtype)
        return x
