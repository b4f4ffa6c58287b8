"""Efficient channel attention: one 1-D convolution across channels, no bottleneck.

    gate = sigmoid(conv1d_k(mean(x)))
    y = x * gate
    k = int(|log2(C) + 1| / 2), raised to the next odd number

Wang et al., "ECA-Net: Efficient Channel Attention for Deep Convolutional Neural Networks",
CVPR 2020, https://arxiv.org/abs/1910.03151
"""

from __future__ import annotations

import math
from typing import Any, Literal

from torch import Tensor, nn
from torch.nn import functional as F

from attnsurgeon.attention.checks import odd_kernel
from attnsurgeon.attention.identity import Gate, native
from attnsurgeon.attention.pictures import multiplied
from attnsurgeon.attention.pooling import Mean
from attnsurgeon.attention.registry import mechanism
from attnsurgeon.attention.shapes import per_channel
from attnsurgeon.errors import MechanismError


def adaptive_kernel(channels: int) -> int:
    """Returns the kernel size for C channels (the paper's gamma = 2 and b = 1)."""
    k = int(abs(math.log2(channels) + 1) / 2)
    return k if k % 2 else k + 1


def count(channels: int, kernel_size: int | None, hidden: int) -> int:
    """Returns the number of parameters."""
    k = kernel_size or adaptive_kernel(channels)
    return 2 * hidden + k * hidden + 1 if hidden else k


@mechanism(
    "eca",
    kind="gate",
    ranks=(1, 2, 3),
    bottleneck=("expand",),
    placement="block-branch",
    picture=multiplied("channel", how="the gate of each channel"),
    formula="k; 2h + kh + 1 with hidden=h",
    count=count,
    identity=native("conv", how="conv starts at zero and the gate is 2 * sigmoid"),
    constraints=("kernel_size is odd", "with padding=circular kernel_size // 2 <= C"),
    deviations=(
        "k follows the paper's formula; the authors' trained ResNets set 3, 5, 5, 7 by stage "
        "(kernel_size=...), where the formula gives 5, 5, 5, 7",
        "the gate is a sigmoid as in the authors' code; the listing in the paper has none",
        "padding and hidden are timm's, not the authors': padding=circular is its ceca, and "
        "hidden, C / 8 rounded to a multiple of 8, its ecam; its kernels have 3 at least",
    ),
    spatial=False,
)
class ECA(nn.Module):
    """Reweights each channel by a gate computed from the means of its k nearest channels.

    Args:
        channels: C.
        rank: 1, 2 or 3.
        kernel_size: k, odd; None for the paper's function of C.
        padding: of the means at the first and last channels: zeros, or circular, the other end.
        hidden: channels between two convolutions, of 1 and of k; 0 for a single one of k.

    Shape:
        x (N, C, ...) -> (N, C, ...)
    """

    def __init__(
        self,
        channels: int,
        *,
        rank: int = 2,
        kernel_size: int | None = None,
        padding: Literal["zeros", "circular"] = "zeros",
        hidden: int = 0,
    ) -> None:
        super().__init__()
        k = odd_kernel(kernel_size or adaptive_kernel(channels))
        if hidden < 0:
            raise MechanismError(f"hidden={hidden} is no number of channels", "0 is none")
        if padding == "circular" and k // 2 > channels:
            raise MechanismError(
                f"kernel_size={k} goes more than once around {channels} channels",
                f"the largest that works here is kernel_size={2 * channels + 1}",
            )
        self.rank = rank
        self.pool = Mean(rank=rank)
        self.expand = nn.Conv1d(1, hidden, 1) if hidden else None
        self.conv = nn.Conv1d(
            hidden or 1, 1, k, padding=k // 2, bias=hidden > 0, padding_mode=padding
        )
        self.gate = Gate()

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if "expand" not in self._modules:  # networks pickled by 0.1 have none at all
            self.__dict__.setdefault("expand", None)

    def forward(self, x: Tensor) -> Tensor:
        """Returns `x` times its channel gates."""
        pooled = self.pool(x).unsqueeze(1)  # (N, 1, C): channels are the sequence
        if self.expand is not None:
            pooled = F.relu(self.expand(pooled))
        gate = self.gate(self.conv(pooled)).squeeze(1)
        return x * per_channel(gate, self.rank)
