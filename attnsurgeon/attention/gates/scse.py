"""Concurrent spatial and channel squeeze-and-excitation: the larger of two gated copies.

    c = sigmoid(W2 relu(W1 mean(x)))
    s = sigmoid(w . x + b) at every position
    y = max(x * c, x * s)

Roy et al., "Concurrent Spatial and Channel 'Squeeze & Excitation' in Fully Convolutional
Networks", MICCAI 2018, https://arxiv.org/abs/1803.02579
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attnsurgeon.attention.checks import hidden_width
from attnsurgeon.attention.identity import Gate, native
from attnsurgeon.attention.pictures import multiplied
from attnsurgeon.attention.pooling import Mean
from attnsurgeon.attention.registry import mechanism
from attnsurgeon.attention.shapes import CONV, per_channel


def winner(x: Tensor, c: Tensor, s: Tensor) -> Tensor:
    """Returns, for each value, the gate of the larger of x * c and x * s; their mean on a tie.

    So the maximum becomes one product, with the same values and the same gradients, but without
    the comparisons of whole tensors that the backward of a maximum consists of.
    """
    side = (c.detach() - s.detach()).mul_(x.detach()).sign_()  # 1 where x * c wins, -1 where x * s
    return torch.lerp(s, c, side.add_(1).mul_(0.5))


def count(channels: int, reduction: int) -> int:
    """Returns the number of parameters."""
    m = hidden_width(channels, reduction)
    return 2 * channels * m + m + channels + channels + 1


@mechanism(
    "scse",
    kind="gate",
    ranks=(1, 2, 3),
    bottleneck=("fc1",),
    placement="block",
    picture=multiplied(
        "both", how="of each value the gate that won, that of its channel or that of its position"
    ),
    formula="2C(C//r) + C//r + C + C + 1",
    count=count,
    identity=native(
        "fc2", "conv", how="both last layers start at zero, both gates are 2 * sigmoid"
    ),
    constraints=("C >= reduction",),
    deviations=(
        "the two are joined by an element-wise maximum, as in the authors' code; so where x is "
        "negative the smaller gate wins",
        "reduction is 2, as the authors have it in segmentation networks; in a ResNet-50 that is "
        "20 million parameters, and reduction=16 is the usual choice",
    ),
    spatial=False,
)
class SCSE(nn.Module):
    """Reweights by channel and by position, and keeps the larger result of the two.

    Args:
        channels: C.
        rank: 1, 2 or 3.
        reduction: r, by which the hidden layer of the channel gate is narrower.

    Shape:
        x (N, C, ...) -> (N, C, ...)
    """

    def __init__(self, channels: int, *, rank: int = 2, reduction: int = 2) -> None:
        super().__init__()
        m = hidden_width(channels, reduction)
        self.rank = rank
        self.pool = Mean(rank=rank)
        self.fc1 = nn.Linear(channels, m)
        self.fc2 = nn.Linear(m, channels)
        self.conv = CONV[rank](channels, 1, 1)
        self.gate = Gate()

    def forward(self, x: Tensor) -> Tensor:
        """Returns the element-wise maximum of the two gated copies of `x`."""
        c = self.gate(self.fc2(F.relu(self.fc1(self.pool(x))))).to(x.dtype)  # (N, C)
        s = self.gate(self.conv(x)).to(x.dtype)  # (N, 1, ...)
        return x * winner(x, per_channel(c, self.rank), s)
