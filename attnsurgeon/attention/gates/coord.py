"""Coordinate attention: one gate along each axis, from the means over all the others.

    [z_h, z_w] = h_swish(batchnorm(W1 [mean over W of x, mean over H of x]))
    y = x * sigmoid(W_h z_h) * sigmoid(W_w z_w)

Hou et al., "Coordinate Attention for Efficient Mobile Network Design", CVPR 2021,
https://arxiv.org/abs/2103.02907
"""

from __future__ import annotations

import torch
import torch.fx
from torch import Tensor, nn
from torch.nn import functional as F

from attnsurgeon.attention.identity import Gate, native
from attnsurgeon.attention.lines import gated
from attnsurgeon.attention.pictures import multiplied
from attnsurgeon.attention.pooling import Mean
from attnsurgeon.attention.registry import mechanism
from attnsurgeon.attention.shapes import positions

torch.fx.wrap("gated")


def width(channels: int, reduction: int) -> int:
    """Returns the number of channels between the two layers, at least 8."""
    return max(8, channels // reduction)


def count(channels: int, rank: int, reduction: int) -> int:
    """Returns the number of parameters."""
    m = width(channels, reduction)
    return channels * m + m + 2 * m + rank * (m * channels + channels)


@mechanism(
    "coord",
    kind="gate",
    ranks=(2, 3),
    rank_reason="(the gate of an axis is made from the means over the others, and a signal has no "
    "other)",
    placement="depthwise-act",
    picture=multiplied("both", how="the product of the gates of a row and of a column"),
    formula="Cm + m + 2m + 2(mC + C), m = max(8, C//r); 3(mC + C) at rank 3",
    count=count,
    identity=native(
        "convs", how="the last layer of each axis starts at zero, its gate is 2 * sigmoid"
    ),
    deviations=(
        "the bias straight before the batch norm is kept to have the authors' parameters; it "
        "cannot learn while the norm uses batch statistics",
        "timm's has no biases, and C / 24 hidden channels, rounded up to a multiple of 8",
        "rank 3 is not the authors': depth is a third axis with a gate of its own",
    ),
    unmoved=("conv.bias",),
)
class CoordAtt(nn.Module):
    """Reweights each channel at each row and each column (and each depth).

    Args:
        channels: C.
        rank: 2 or 3.
        reduction: r, by which the shared layer is narrower, down to 8 channels.

    Shape:
        x (N, C, ...) -> (N, C, ...)
    """

    def __init__(self, channels: int, *, rank: int = 2, reduction: int = 32) -> None:
        super().__init__()
        m = width(channels, reduction)
        self.pools = nn.ModuleList(
            Mean(axes=tuple(other for other in positions(rank) if other != axis))
            for axis in positions(rank)
        )
        self.conv = nn.Conv1d(channels, m, 1)
        self.norm = nn.BatchNorm1d(m)  # sees one value an axis at least, so never a single one
        self.convs = nn.ModuleList(nn.Conv1d(m, channels, 1) for _ in range(rank))
        self.gate = Gate()

    def forward(self, x: Tensor) -> Tensor:
        """Returns `x` times the gates of its rows and of its columns."""
        pooled = [pool(x) for pool in self.pools]  # (N, C, H) and (N, C, W)
        z = F.hardswish(self.norm(self.conv(torch.cat(pooled, dim=2))))  # (N, m, H + W)
        parts = z.split([p.shape[2] for p in pooled], dim=2)
        return gated(x, *(self.gate(conv(parts[i])) for i, conv in enumerate(self.convs)))
