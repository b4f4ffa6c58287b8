"""Coordinate attention: one gate along each axis, from the means over all the others.

    [z_h, z_w] = h_swish(batchnorm(W1 [mean over W of x, mean over H of x]))
    y = x * sigmoid(W_h z_h) * sigmoid(W_w z_w)

With form=sum one gate of both, and no norm: z = silu(W1 ...), y = x * sigmoid(W_h z_h + W_w z_w).

Hou et al., "Coordinate Attention for Efficient Mobile Network Design", CVPR 2021,
https://arxiv.org/abs/2103.02907
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.fx
from torch import Tensor, nn
from torch.nn import functional as F

from attnsurgeon.attention.identity import Gate, native
from attnsurgeon.attention.lines import gated, summed
from attnsurgeon.attention.norms import BatchNorm
from attnsurgeon.attention.pictures import multiplied
from attnsurgeon.attention.pooling import Mean
from attnsurgeon.attention.registry import mechanism
from attnsurgeon.attention.shapes import positions

torch.fx.wrap("gated")
Form = Literal["product", "sum"]


def width(channels: int, reduction: int, divisor: int | None) -> int:
    """Returns the number of channels between the two layers."""
    if divisor is None:
        return max(8, channels // reduction)
    return divisor * max(1, (2 * channels + divisor * reduction) // (2 * divisor * reduction))


def count(
    channels: int, rank: int, form: str, reduction: int, divisor: int | None, bias: bool
) -> int:
    """Returns the number of parameters."""
    m = width(channels, reduction, divisor)
    norm = 2 * m if form == "product" else 0
    return (1 + rank) * channels * m + bias * (m + rank * channels) + norm


@mechanism(
    "coord",
    kind="gate",
    ranks=(2, 3),
    rank_reason="(the gate of an axis is made from the means over the others, and a signal has no "
    "other)",
    placement="depthwise-act",
    picture=multiplied(
        "both", how="the product of the gates of a row and of a column, or the gate of their sum"
    ),
    formula="Cm + m + 2m + 2(mC + C), m = max(8, C//r); 3(mC + C) at rank 3; without 2m with "
    "form=sum, without m and C with bias=False",
    count=count,
    identity=native(
        "convs", how="the last layer of each axis starts at zero, the gate is 2 * sigmoid"
    ),
    deviations=(
        "the bias straight before the batch norm is kept to have the authors' parameters; it "
        "cannot learn while the norm uses batch statistics",
        "timm's has no biases, and of hidden channels the multiple of 8 nearest to C / 24: "
        "reduction=24, divisor=8, bias=False",
        "form=sum is timm's, not the authors': its scoord, with reduction=6, divisor=8",
        "rank 3 is not the authors': depth is a third axis with a gate of its own",
    ),
    unmoved=("conv.bias",),
)
class CoordAtt(nn.Module):
    """Reweights each channel at each row and each column (and each depth).

    Args:
        channels: C.
        rank: 2 or 3.
        form: product, of a gate along each axis; or sum, one gate of the sum, without a norm.
        reduction: r, by which the shared layer is narrower, down to 8 channels.
        divisor: of the hidden width, the multiple nearest to C / r; None for max(8, C // r).
        bias: whether the layers have biases.

    Shape:
        x (N, C, ...) -> (N, C, ...)
    """

    form: Form = "product"  # as in networks pickled before there was a choice

    def __init__(
        self,
        channels: int,
        *,
        rank: int = 2,
        form: Form = "product",
        reduction: int = 32,
        divisor: int | None = None,
        bias: bool = True,
    ) -> None:
        super().__init__()
        m = width(channels, reduction, divisor)
        self.form: Form = form
        self.pools = nn.ModuleList(
            Mean(axes=tuple(other for other in positions(rank) if other != axis))
            for axis in positions(rank)
        )
        self.conv = nn.Conv1d(channels, m, 1, bias=bias)
        if form == "product":
            self.norm = BatchNorm(m)
        self.convs = nn.ModuleList(nn.Conv1d(m, channels, 1, bias=bias) for _ in range(rank))
        self.gate = Gate()

    def forward(self, x: Tensor) -> Tensor:
        """Returns `x` times the gates of its rows and of its columns, or of their sum."""
        pooled = [pool(x) for pool in self.pools]  # (N, C, H) and (N, C, W)
        z = self.conv(torch.cat(pooled, dim=2))  # (N, m, H + W)
        z = F.silu(z) if self.form == "sum" else F.hardswish(self.norm(z))
        parts = z.split([p.shape[2] for p in pooled], dim=2)
        lines = [conv(parts[i]) for i, conv in enumerate(self.convs)]  # (N, C, H) and (N, C, W)
        if self.form == "sum":
            return x * self.gate(summed(*lines)).to(x.dtype)
        return gated(x, *(self.gate(line) for line in lines))

    def extra_repr(self) -> str:
        """Returns what the parameters do not show."""
        return f"form={self.form}"
