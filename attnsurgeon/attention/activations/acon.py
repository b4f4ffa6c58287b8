"""ACON: an activation that is learned between a linear map and a switch, for each channel.

    beta = sigmoid(batchnorm(W2 batchnorm(W1 mean(x))))       meta
    beta, a parameter                                         c
    y = (p1 - p2) x * sigmoid(beta (p1 - p2) x) + p2 x

Ma et al., "Activate or Not: Learning Customized Activation", CVPR 2021,
https://arxiv.org/abs/2009.04759
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from attnsurgeon.attention.identity import replacing
from attnsurgeon.attention.norms import ONE_VALUE, BatchNorm
from attnsurgeon.attention.pictures import Picture
from attnsurgeon.attention.pooling import Mean
from attnsurgeon.attention.registry import mechanism
from attnsurgeon.attention.shapes import per_channel

Form = Literal["meta", "c"]


def width(channels: int, reduction: int) -> int:
    """Returns the width between the two layers, as narrow as C // r, or r where that is more."""
    return max(reduction, channels // reduction)


def count(channels: int, form: Form, reduction: int) -> int:
    """Returns the number of parameters."""
    m = width(channels, reduction)
    switch = 2 * channels * m + m + channels + 2 * m + 2 * channels
    return 2 * channels + (channels if form == "c" else switch)


@mechanism(
    "acon",
    kind="activation",
    ranks=(1, 2, 3),
    placement="conv3x3-act",
    picture=Picture(
        ("both",),
        "(p1 - p2) sigmoid + p2 of each value",
        lambda seen: {"both": seen.module.gate(seen.values[0])},
    ),
    formula="2C + 2Cm + 3m + 3C, m = max(r, C//r); 3C with form=c",
    count=count,
    identity=replacing(
        base=lambda replaced: nn.ReLU(),
        how="y = old(x) + g * (mechanism(x) - old(x)), learnable g = 0; old is the activation "
        "that was there, or ReLU where the mechanism stands alone",
    ),
    deviations=(
        "as in the authors' code, p1 and p2 start at random and there is no activation between "
        "the two layers",
        "biases that a batch norm takes away again are kept to have the authors' parameters; they "
        "cannot learn while the norms use batch statistics",
        "ranks 1 and 3 are not the authors': the mean runs over all positions",
        ONE_VALUE,
    ),
    unmoved=("fc1.bias", "norm1.bias", "fc2.bias"),
    spatial=False,
)
class ACON(nn.Module):
    """Replaces an activation by one whose slopes are learned, and how sharply it switches.

    Args:
        channels: C.
        rank: 1, 2 or 3.
        form: meta, the switch is made from the means of the channels, or c, it is a parameter.
        reduction: r, by which the hidden layer is narrower, and the least that it has.

    Shape:
        x (N, C, ...) -> (N, C, ...)
    """

    def __init__(
        self, channels: int, *, rank: int = 2, form: Form = "meta", reduction: int = 16
    ) -> None:
        super().__init__()
        self.rank = rank
        self.form = form
        self.p1 = nn.Parameter(torch.randn(channels))
        self.p2 = nn.Parameter(torch.randn(channels))
        if form == "c":
            self.beta = nn.Parameter(torch.ones(channels))
            return
        m = width(channels, reduction)
        self.pool = Mean(rank=rank)
        self.fc1 = nn.Linear(channels, m)
        self.norm1 = BatchNorm(m)
        self.fc2 = nn.Linear(m, channels)
        self.norm2 = BatchNorm(channels)

    def gate(self, x: Tensor) -> Tensor:
        """Returns what each value is multiplied by."""
        slope = self.p1 - self.p2
        if self.form == "c":
            beta = self.beta.unsqueeze(0)
        else:
            beta = self.norm2(self.fc2(self.norm1(self.fc1(self.pool(x))))).sigmoid()
        inner = per_channel((beta * slope).to(x.dtype), self.rank)
        slope, rest = (per_channel(p.unsqueeze(0).to(x.dtype), self.rank) for p in (slope, self.p2))
        return slope * (inner * x).sigmoid() + rest

    def forward(self, x: Tensor) -> Tensor:
        """Returns the activations."""
        return x * self.gate(x)
