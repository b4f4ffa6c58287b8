"""Attentional feature fusion: a gate shares each value out between branch and shortcut.

    s = branch + shortcut
    w = sigmoid(local(s) + global(mean(s))), each batchnorm(W2 relu(batchnorm(W1 z + b1)) + b2)
    y = 2 * branch * w + 2 * shortcut * (1 - w)

Dai et al., "Attentional Feature Fusion", WACV 2021, https://arxiv.org/abs/2009.14082
"""

from __future__ import annotations

from torch import Tensor, nn

from attnsurgeon.attention.checks import hidden_width
from attnsurgeon.attention.identity import native
from attnsurgeon.attention.norms import ONE_VALUE, BatchNorm
from attnsurgeon.attention.pictures import fused
from attnsurgeon.attention.pooling import Mean
from attnsurgeon.attention.registry import mechanism
from attnsurgeon.attention.shapes import CONV, per_channel

PASS_BIASES = ("squeeze.bias", "expand.bias", "global_squeeze.bias", "global_expand.bias")


class Context(nn.Module):
    """Multi-scale channel attention: what the channels say at a position and over the whole map.

    Args:
        channels: C.
        rank: 1, 2 or 3.
        reduction: r, by which the hidden layers are narrower.

    Shape:
        s (N, C, ...) -> (N, C, ...), before the sigmoid
    """

    def __init__(self, channels: int, *, rank: int, reduction: int) -> None:
        super().__init__()
        m = hidden_width(channels, reduction)
        self.rank = rank
        self.squeeze = CONV[rank](channels, m, 1)
        self.squeeze_norm = BatchNorm(m)
        self.expand = CONV[rank](m, channels, 1)
        self.expand_norm = BatchNorm(channels)
        self.pool = Mean(rank=rank)
        self.global_squeeze = nn.Linear(channels, m)
        self.global_squeeze_norm = BatchNorm(m)
        self.global_expand = nn.Linear(m, channels)
        self.global_expand_norm = BatchNorm(channels)

    def forward(self, s: Tensor) -> Tensor:
        """Returns the sum of the two contexts."""
        local = self.squeeze_norm(self.squeeze(s)).relu()
        local = self.expand_norm(self.expand(local))
        whole = self.global_squeeze_norm(self.global_squeeze(self.pool(s))).relu()
        whole = self.global_expand_norm(self.global_expand(whole))  # (N, C)
        return local + per_channel(whole, self.rank).to(local.dtype)


def count(channels: int, reduction: int) -> int:
    """Returns the number of parameters."""
    m = hidden_width(channels, reduction)
    return 2 * (channels * m + m + 2 * m + m * channels + channels + 2 * channels)


DEVIATIONS = (
    "reduction is 16, as in the authors' ImageNet networks; their class has 4 by default",
    "the biases straight before a batch norm are kept to have the authors' parameters; they "
    "cannot learn while it uses batch statistics",
    "ranks 1 and 3 are not the authors': the mean runs over all positions",
    ONE_VALUE,
)


@mechanism(
    "aff",
    kind="fusion",
    ranks=(1, 2, 3),
    placement="late-residual-add",
    picture=fused("2w for the branch and 2 - 2w for the shortcut, of each value"),
    formula="2 [Cm + m + 2m + mC + C + 2C], m = C//r",
    count=count,
    identity=native(
        "context.expand_norm",
        "context.global_expand_norm",
        how="the last norms start at zero, so w = 1/2 and y = branch + shortcut",
    ),
    constraints=("C >= reduction",),
    deviations=(
        "with the factor 2, as in the authors' code for MXNet and PyTorch; the paper's equation "
        "and a copy in circulation have none",
        *DEVIATIONS,
    ),
    unmoved=tuple(f"context.{name}" for name in PASS_BIASES),
    spatial=False,
)
class AFF(nn.Module):
    """Replaces a residual addition by a sum whose two weights, of each value, are gates.

    Args:
        channels: C.
        rank: 1, 2 or 3.
        reduction: r, by which the hidden layers are narrower.

    Shape:
        branch (N, C, ...), shortcut (N, C, ...) -> (N, C, ...)
    """

    def __init__(self, channels: int, *, rank: int = 2, reduction: int = 16) -> None:
        super().__init__()
        self.context = Context(channels, rank=rank, reduction=reduction)

    def forward(self, branch: Tensor, shortcut: Tensor) -> Tensor:
        """Returns the two values weighed by 2 * w and 2 - 2 * w."""
        total = branch + shortcut
        # Doubled before it meets the values: twice a large one would overflow half precision.
        share = (2 * self.context(total).sigmoid()).to(total.dtype)
        return branch * share + shortcut * (2 - share)
