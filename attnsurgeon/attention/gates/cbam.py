"""Convolutional block attention: a channel gate, then a spatial gate on its result.

    c = sigmoid(mlp(mean(x)) + mlp(max(x)))
    u = x * c
    s = sigmoid(batchnorm(conv_k([max over C of u, mean over C of u])))
    y = u * s

With pool=mixed each gate is made from one descriptor, half the sum of mean and maximum.

Woo et al., "CBAM: Convolutional Block Attention Module", ECCV 2018,
https://arxiv.org/abs/1807.06521
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attnsurgeon.attention.checks import hidden_width, odd_kernel
from attnsurgeon.attention.identity import Gate, native
from attnsurgeon.attention.kernels import around, kernel_along
from attnsurgeon.attention.norms import ONE_VALUE, BatchNorm
from attnsurgeon.attention.pictures import multiplied
from attnsurgeon.attention.pooling import Max, Mean, Mixed, Over
from attnsurgeon.attention.registry import mechanism
from attnsurgeon.attention.shapes import CONV, per_channel

POOLS: dict[str, tuple[type[Over], ...]] = {"both": (Mean, Max), "mixed": (Mixed,)}


def count(
    channels: int, rank: int, reduction: int, kernel_size: int, spatial: bool, bias: bool, pool: str
) -> int:
    """Returns the number of parameters."""
    m = hidden_width(channels, reduction)
    taps = math.prod(kernel_along(kernel_size, rank))
    by_position = len(POOLS[pool]) * taps + 2 if spatial else 0
    return 2 * channels * m + bias * (m + channels) + by_position


@mechanism(
    "cbam",
    kind="gate",
    ranks=(1, 2, 3),
    bottleneck=("fc1",),
    placement="block-branch",
    picture=multiplied(
        "channel", "spatial", how="the gate of each channel, and that of each position"
    ),
    formula="2C(C//r) + C//r + C + 2k^2 + 2; 2k for 2k^2 at rank 1, 6k^2 at rank 3; "
    "without 2k^2 + 2 with spatial=False, without C//r + C with bias=False; half of 2k^2 with "
    "pool=mixed",
    count=count,
    identity=native(
        "fc2", "norm", how="the last layers of both gates start at zero, both are 2 * sigmoid"
    ),
    constraints=("C >= reduction", "kernel_size is odd"),
    deviations=(
        "biases in the MLP, none in the convolution, a batch norm (momentum 0.01) after it and "
        "the order [max, mean], as in the authors' code; copies differ in each of these, most have "
        "no biases in the MLP (bias=False)",
        "the batch norm's weight starts at zero as in the authors' ResNets, so the spatial gate "
        "starts at 1/2 everywhere",
        "pool=mixed is timm's, not the authors': its lcbam",
        "the channel gate's other pools, a 2-norm and log-sum-exp, which the authors' class offers "
        "and their networks do not use, are not built",
        "ranks 1 and 3 are not the authors': the kernel is k long, or (3, k, k), as clips have few "
        "frames",
        ONE_VALUE,
    ),
)
class CBAM(nn.Module):
    """Reweights channels from their mean and maximum, then positions likewise.

    Args:
        channels: C.
        rank: 1, 2 or 3.
        reduction: r, by which the hidden layer of the channel gate is narrower.
        kernel_size: k of the spatial gate, odd.
        spatial: whether there is a spatial gate.
        bias: whether the layers of the channel gate have biases.
        pool: both for mean and maximum, or mixed for half their sum alone.

    Shape:
        x (N, C, ...) -> (N, C, ...)
    """

    def __init__(
        self,
        channels: int,
        *,
        rank: int = 2,
        reduction: int = 16,
        kernel_size: int = 7,
        spatial: bool = True,
        bias: bool = True,
        pool: Literal["both", "mixed"] = "both",
    ) -> None:
        super().__init__()
        m = hidden_width(channels, reduction)
        k = kernel_along(odd_kernel(kernel_size), rank)
        self.rank = rank
        pools = POOLS[pool]
        self.pools = nn.ModuleList(each(rank=rank) for each in pools)
        self.fc1 = nn.Linear(channels, m, bias=bias)
        self.fc2 = nn.Linear(m, channels, bias=bias)
        self.conv = CONV[rank](len(pools), 1, k, padding=around(k), bias=False) if spatial else None
        self.norm = BatchNorm(1, momentum=0.01) if spatial else nn.Identity()
        self.planes = nn.ModuleList(each(axes=(1,), keepdim=True) for each in reversed(pools))
        self.gate = Gate()
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Starts as the authors' networks do."""
        for layer in (self.fc1, self.fc2):
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        if self.conv is not None:
            nn.init.kaiming_normal_(self.conv.weight, mode="fan_out")
            nn.init.zeros_(self.norm.get_parameter("weight"))

    def forward(self, x: Tensor) -> Tensor:
        """Returns `x` times its channel gates, times the gates of the positions of that."""
        pooled = torch.stack([pool(x) for pool in self.pools])  # (2, N, C), or (1, N, C)
        by_channel = self.gate(self.fc2(F.relu(self.fc1(pooled))).sum(0))  # (N, C)
        x = x * per_channel(by_channel, self.rank)
        if self.conv is None:
            return x
        planes = torch.cat(
            [plane(x) for plane in self.planes], dim=1
        )  # (N, 2, ...), or (N, 1, ...)
        return x * self.gate(self.norm(self.conv(planes)))
