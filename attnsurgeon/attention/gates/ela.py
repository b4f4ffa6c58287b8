"""Efficient local attention: one gate along each axis, each a 1-D convolution of the means.

    g_h = sigmoid(groupnorm(conv1d(mean over W of x))), g_w alike
    y = x * g_h * g_w

Xu and Wan, "ELA: Efficient Local Attention for Deep Convolutional Neural Networks", arXiv 2024,
https://arxiv.org/abs/2403.01123
"""

from __future__ import annotations

import torch.fx
from torch import Tensor, nn

from attnsurgeon.attention.checks import odd_kernel
from attnsurgeon.attention.identity import Gate, native
from attnsurgeon.attention.lines import gated
from attnsurgeon.attention.partition import groups_of, most_groups
from attnsurgeon.attention.pictures import multiplied
from attnsurgeon.attention.pooling import Mean
from attnsurgeon.attention.registry import mechanism
from attnsurgeon.attention.shapes import positions

torch.fx.wrap("gated")
NORM_GROUPS = 16


def count(channels: int, kernel_size: int, groups: int | None) -> int:
    """Returns the number of parameters."""
    return channels * kernel_size * (channels // (groups or channels)) + 2 * channels


@mechanism(
    "ela",
    kind="gate",
    ranks=(2, 3),
    rank_reason="(the gate of an axis is made from the means over the others, and a signal has no "
    "other)",
    placement="block-branch",
    picture=multiplied("both", how="the product of the gates of a row and of a column"),
    formula="kC (C / groups) + 2C, groups = C",
    count=count,
    identity=native("norm", how="the norm starts at zero and each gate is 2 * sigmoid"),
    constraints=("groups and norm_groups divide C", "kernel_size is odd"),
    deviations=(
        "its authors have published no code; it is built from the listing in the paper, whose two "
        "axes share convolution and norm",
        "the default is the paper's ELA-B; ELA-T has kernel_size=5 and norm_groups=32, ELA-S "
        "kernel_size=5 and groups=C//8, ELA-L kernel_size=7 and groups=C//8",
        "where 16 groups of the norm do not divide C, the largest number below that does",
        "rank 3 is not the authors': depth is a third axis with a gate of its own",
    ),
)
class ELA(nn.Module):
    """Reweights each channel at each row and each column, from the rows and columns near them.

    Args:
        channels: C.
        rank: 2 or 3.
        kernel_size: of the convolution along the axes.
        groups: of that convolution; None for one a channel.
        norm_groups: of the norm; None for 16, or the largest number below that divides C.

    Shape:
        x (N, C, ...) -> (N, C, ...)
    """

    def __init__(
        self,
        channels: int,
        *,
        rank: int = 2,
        kernel_size: int = 7,
        groups: int | None = None,
        norm_groups: int | None = None,
    ) -> None:
        super().__init__()
        self.pools = nn.ModuleList(
            Mean(axes=tuple(other for other in positions(rank) if other != axis))
            for axis in positions(rank)
        )
        self.conv = nn.Conv1d(
            channels,
            channels,
            odd_kernel(kernel_size),
            padding=kernel_size // 2,
            groups=groups_of(channels, groups or channels),
            bias=False,
        )
        parts = norm_groups or most_groups(channels, NORM_GROUPS)
        self.norm = nn.GroupNorm(groups_of(channels, parts), channels)
        self.gate = Gate()

    def forward(self, x: Tensor) -> Tensor:
        """Returns `x` times the gates of its rows and of its columns."""
        gates = [self.gate(self.norm(self.conv(pool(x)))) for pool in self.pools]  # (N, C, L)
        return gated(x, *(gate.to(x.dtype) for gate in gates))
