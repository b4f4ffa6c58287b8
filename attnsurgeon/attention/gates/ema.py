"""Efficient multi-scale attention: in each group of channels two views gate each other's positions.

    u = groupnorm(x * sigmoid(h) * sigmoid(w)), [h, w] = W [mean over W of x, mean over H of x]
    v = conv3x3(x)
    y = x * sigmoid(softmax(mean u) . v + softmax(mean v) . u)

Ouyang et al., "Efficient Multi-Scale Attention Module with Cross-Spatial Learning", ICASSP 2023,
https://arxiv.org/abs/2305.13563
"""

from __future__ import annotations

import math

import torch
import torch.fx
from torch import Tensor, nn

from attnsurgeon.attention.identity import Gate, native
from attnsurgeon.attention.kernels import around, kernel_along
from attnsurgeon.attention.lines import gated
from attnsurgeon.attention.partition import groups_of, most_groups
from attnsurgeon.attention.pictures import multiplied
from attnsurgeon.attention.pooling import Mean
from attnsurgeon.attention.registry import mechanism
from attnsurgeon.attention.shapes import CONV, positions, unflatten

torch.fx.wrap("gated")
GROUPS = 32


@torch.fx.wrap
def weighed(shares: Tensor, maps: Tensor) -> Tensor:
    """Returns (N, 1, P): the sum of maps (N, c, ...) by shares (N or 1, c)."""
    flat = maps.flatten(2)
    return torch.bmm(shares.to(flat.dtype).unsqueeze(1).expand(flat.shape[0], -1, -1), flat)


def group_count(channels: int, groups: int | None) -> int:
    """Returns the number of groups, by default 32 or the largest number below that divides C."""
    return groups_of(channels, groups) if groups else most_groups(channels, GROUPS)


def count(channels: int, rank: int, groups: int | None) -> int:
    """Returns the number of parameters."""
    c = channels // group_count(channels, groups)
    return c * c + c + math.prod(kernel_along(3, rank)) * c * c + c + 2 * c


@mechanism(
    "ema",
    kind="gate",
    ranks=(2, 3),
    rank_reason="(the gate of an axis is made from the means over the others, and a signal has no "
    "other)",
    placement="block-branch",
    picture=multiplied("both", how="the gate of each position in each group of channels"),
    formula="c^2 + c + 9c^2 + c + 2c, c = C / groups; 27c^2 for 9c^2 at rank 3",
    count=count,
    identity=native(
        "conv3x3",
        "norm",
        how="convolution and norm start at zero, so both views are, and the gate is 2 * sigmoid",
    ),
    constraints=("groups divide C",),
    limits=(
        "pruning: Torch-Pruning is still at work after ten seconds on a network of three blocks; "
        "prune within attnsurgeon.disabled(model), and let it ignore the layers before",
    ),
    deviations=(
        "where 32 groups do not divide C, the largest number below that does",
        "the mean of a normalised map is the bias of its norm, which is taken instead",
        "rank 3 is not the authors': depth is a third axis with a gate of its own",
    ),
)
class EMA(nn.Module):
    """Reweights each position of each group of channels by what two views of it say of each other.

    Args:
        channels: C.
        rank: 2 or 3.
        groups: of channels that share a gate and all parameters; None for 32, or the largest
            number below that divides C.

    Shape:
        x (N, C, ...) -> (N, C, ...)
    """

    def __init__(self, channels: int, *, rank: int = 2, groups: int | None = None) -> None:
        super().__init__()
        self.groups = group_count(channels, groups)
        c, kernel = channels // self.groups, kernel_along(3, rank)
        self.pools = nn.ModuleList(
            Mean(axes=tuple(other for other in positions(rank) if other != axis))
            for axis in positions(rank)
        )
        self.pool = Mean(rank=rank)
        self.norm = nn.GroupNorm(c, c)
        self.conv1x1 = nn.Conv1d(c, c, 1)
        self.conv3x3 = CONV[rank](c, c, kernel, padding=around(kernel))
        self.gate = Gate()

    def forward(self, x: Tensor) -> Tensor:
        """Returns `x` times its gates."""
        groups = unflatten(x, 1, (self.groups, -1))  # (N, G, c, ...)
        z = groups.flatten(0, 1)
        pooled = [pool(z) for pool in self.pools]  # (N G, c, H) and (N G, c, W)
        lines = self.conv1x1(torch.cat(pooled, dim=2)).sigmoid()
        parts = lines.split([p.shape[2] for p in pooled], dim=2)
        u = self.norm(gated(z, *(parts[i].to(z.dtype) for i in range(len(pooled)))))
        v = self.conv3x3(z)
        assert self.norm.bias is not None
        from_u = self.norm.bias.softmax(0).unsqueeze(0)
        from_v = self.pool(v).softmax(1)
        scores = weighed(from_u, v) + weighed(from_v, u).to(v.dtype)  # (N G, 1, P)
        gate = unflatten(self.gate(scores).to(x.dtype), 2, x.shape[2:])
        return (groups * unflatten(gate, 0, (-1, self.groups))).flatten(1, 2)

    def extra_repr(self) -> str:
        """Returns the groups, whose number the parameters do not show."""
        return f"groups={self.groups}"
