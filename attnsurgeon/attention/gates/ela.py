"""Efficient local attention: one gate along each axis, each a 1-D convolution of the means.

    g_h = sigmoid(groupnorm(conv1d(mean over W of x))), g_w alike
    y = x * g_h * g_w

With form=separate each axis has layers of its own, and a silu before its sigmoid; with form=sum
y = x * sigmoid(conv1d_h(mean over W of x) + conv1d_w(mean over H of x)), without a norm.

Xu and Wan, "ELA: Efficient Local Attention for Deep Convolutional Neural Networks", arXiv 2024,
https://arxiv.org/abs/2403.01123
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch.fx
from torch import Tensor, nn
from torch.nn import functional as F

from attnsurgeon.attention.checks import odd_kernel
from attnsurgeon.attention.identity import Gate, Identity, open_gates, zero
from attnsurgeon.attention.lines import gated, summed
from attnsurgeon.attention.partition import groups_of, most_groups
from attnsurgeon.attention.pictures import multiplied
from attnsurgeon.attention.pooling import Mean
from attnsurgeon.attention.registry import mechanism
from attnsurgeon.attention.shapes import positions
from attnsurgeon.errors import MechanismError

torch.fx.wrap("gated")
NORM_GROUPS = 16
Form = Literal["shared", "separate", "sum"]


def count(channels: int, rank: int, form: str, kernel_size: int, groups: int | None) -> int:
    """Returns the number of parameters."""
    conv = channels * kernel_size * (channels // (groups or channels))
    each = conv if form == "sum" else conv + 2 * channels
    return each if form == "shared" else rank * each


def start(module: nn.Module, replaced: nn.Module | None) -> nn.Module:
    """Lets each gate be that of zero, and open there."""
    zero(module, "conv" if module.form == "sum" else "norm")
    open_gates(module)
    return module


def of_axis(layer: nn.Module, axis: int) -> nn.Module:
    """Returns the layer of that axis, which may be one for all."""
    return layer[axis] if isinstance(layer, nn.ModuleList) else layer


@mechanism(
    "ela",
    kind="gate",
    ranks=(2, 3),
    rank_reason="(the gate of an axis is made from the means over the others, and a signal has no "
    "other)",
    placement="block-branch",
    picture=multiplied(
        "both", how="the product of the gates of a row and of a column, or the gate of their sum"
    ),
    formula="kC (C / groups) + 2C, groups = C; as often as there are axes with form=separate, and "
    "without 2C with form=sum",
    count=count,
    identity=Identity(
        "native",
        "the norm starts at zero, with form=sum the convolutions, and each gate is 2 * sigmoid",
        start,
    ),
    constraints=("groups and norm_groups divide C", "kernel_size is odd"),
    deviations=(
        "its authors have published no code; it is built from the listing in the paper, whose two "
        "axes share convolution and norm",
        "the default is the paper's ELA-B; ELA-T has kernel_size=5 and norm_groups=32, ELA-S "
        "kernel_size=5 and groups=C//8, ELA-L kernel_size=7 and groups=C//8",
        "form=separate and form=sum are timm's, its ela with norm_groups=1 and its strip with "
        "kernel_size=3",
        "where 16 groups of the norm do not divide C, the largest number below that does",
        "rank 3 is not the authors': depth is a third axis with a gate of its own",
    ),
)
class ELA(nn.Module):
    """Reweights each channel at each row and each column, from the rows and columns near them.

    Args:
        channels: C.
        rank: 2 or 3.
        form: shared, separate or sum: which layers the axes have, and how their gates are joined.
        kernel_size: of the convolution along the axes.
        groups: of that convolution; None for one a channel.
        norm_groups: of the norm; None for 16, or the largest number below that divides C.

    Shape:
        x (N, C, ...) -> (N, C, ...)
    """

    form: Form = "shared"  # as in networks pickled before there was a choice

    def __init__(
        self,
        channels: int,
        *,
        rank: int = 2,
        form: Form = "shared",
        kernel_size: int = 7,
        groups: int | None = None,
        norm_groups: int | None = None,
    ) -> None:
        super().__init__()
        self.pools = nn.ModuleList(
            Mean(axes=tuple(other for other in positions(rank) if other != axis))
            for axis in positions(rank)
        )
        self.form: Form = form
        width = groups_of(channels, groups or channels)
        padding = odd_kernel(kernel_size) // 2

        def conv() -> nn.Module:
            return nn.Conv1d(
                channels, channels, kernel_size, padding=padding, groups=width, bias=False
            )

        def norm() -> nn.Module:
            parts = norm_groups or most_groups(channels, NORM_GROUPS)
            return nn.GroupNorm(groups_of(channels, parts), channels)

        def made(layer: Callable[[], nn.Module]) -> nn.Module:
            one_for_all = form == "shared"
            return layer() if one_for_all else nn.ModuleList(layer() for _ in range(rank))

        if form == "sum" and norm_groups is not None:
            raise MechanismError(
                f"norm_groups={norm_groups}, and form=sum has no norm", "leave it out"
            )
        self.conv = made(conv)
        if form != "sum":
            self.norm = made(norm)
        self.gate = Gate()

    def forward(self, x: Tensor) -> Tensor:
        """Returns `x` times the gates of its rows and of its columns, or of their sum."""
        lines = [of_axis(self.conv, i)(pool(x)) for i, pool in enumerate(self.pools)]  # (N, C, L)
        if self.form == "sum":
            return x * self.gate(summed(*lines)).to(x.dtype)
        lines = [of_axis(self.norm, i)(line) for i, line in enumerate(lines)]
        if self.form == "separate":
            lines = [F.silu(line) for line in lines]
        return gated(x, *(self.gate(line).to(x.dtype) for line in lines))

    def extra_repr(self) -> str:
        """Returns what the parameters do not show."""
        return f"form={self.form}"
