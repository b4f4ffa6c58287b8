"""Multidimensional collaborative attention: gates of channels, rows and columns, averaged.

    s_c = mean over all else, d_c = deviation over all else; alike for h and w
    g_c = sigmoid(conv1d((1/2 + sigmoid(a)) s_c + (1/2 + sigmoid(b)) d_c))
    y = x * (g_c + g_h + g_w) / 3

Yu et al., "MCA: Multidimensional collaborative attention in deep convolutional neural networks for
image recognition", Engineering Applications of Artificial Intelligence 2023,
https://doi.org/10.1016/j.engappai.2023.107079
"""

from __future__ import annotations

import math

import torch
import torch.fx
from torch import Tensor, nn

from attnsurgeon.attention.checks import odd_kernel
from attnsurgeon.attention.identity import Gate, Identity, open_gates, zero
from attnsurgeon.attention.pictures import multiplied
from attnsurgeon.attention.pooling import moments
from attnsurgeon.attention.registry import mechanism
from attnsurgeon.attention.shapes import positions

SMALL = 1e-12  # under the root, whose slope is infinite at zero
ALONG = 3  # the authors' kernel along rows and columns


def adaptive_kernel(channels: int) -> int:
    """Returns the kernel along C channels (the paper's lambda = 1.5 and gamma = 1)."""
    k = round(abs((math.log2(channels) - 1) / 1.5))
    return max(k if k % 2 else k - 1, 1)


@torch.fx.wrap
def squeezed(x: Tensor, axis: int, mean_weight: Tensor, deviation_weight: Tensor) -> Tensor:
    """Returns (N, L): mean and deviation over all but an axis of `x`, weighed and added."""
    mean, variance = moments(x.movedim(axis, 1), tuple(range(2, x.dim())))
    z = mean * mean_weight + torch.sqrt(variance + SMALL) * deviation_weight
    return z.to(x.dtype)


class Along(nn.Module):
    """The gate along one axis.

    Shape:
        x (N, C, ...) -> (N, ..., L, ...), of length 1 along all axes but its own
    """

    def __init__(self, axis: int, kernel_size: int, rank: int) -> None:
        super().__init__()
        self.axis = axis
        self.rank = rank
        self.conv = nn.Conv1d(1, 1, kernel_size, padding=kernel_size // 2, bias=False)
        self.weight = nn.Parameter(torch.rand(2))
        self.gate = Gate()

    def forward(self, x: Tensor) -> Tensor:
        """Returns the gate, a view that broadcasts."""
        of_mean, of_deviation = (0.5 + self.weight.sigmoid()).unbind()
        z = squeezed(x, self.axis, of_mean, of_deviation)  # (N, L)
        gate = self.gate(self.conv(z.unsqueeze(1)).squeeze(1)).to(x.dtype)
        index = [slice(None)] + [None] * (self.rank + 1)
        index[self.axis] = slice(None)
        return gate[tuple(index)]


def start(module: nn.Module, replaced: nn.Module | None) -> nn.Module:
    """Makes every gate one."""
    for child in module.modules():
        if isinstance(child, Along):
            zero(child, "conv")
    open_gates(module)
    return module


def count(channels: int, rank: int, kernel_size: int | None, channel: bool) -> int:
    """Returns the number of parameters."""
    own = (kernel_size or adaptive_kernel(channels)) + 2
    return rank * (ALONG + 2) + (own if channel else 0)


@mechanism(
    "mca",
    kind="gate",
    ranks=(1, 2, 3),
    placement="block-branch",
    picture=multiplied("both", how="the mean of the gates of a channel, a row and a column"),
    formula="k + 2 + 2 * 5; 1 * 5 at rank 1, 3 * 5 at rank 3",
    count=count,
    identity=Identity(
        "native", "all convolutions start at zero and the gates are 2 * sigmoid", start
    ),
    constraints=("kernel_size is odd",),
    deviations=(
        "k is |log2(C) - 1| / 1.5, rounded, lowered to an odd number, as in the authors' code, "
        "but never below 1",
        "the deviation of values that are all the same has the slope 0, where the authors' code "
        "has none",
        "ranks 1 and 3 are not the authors': every axis has a gate of its own",
    ),
)
class MCA(nn.Module):
    """Reweights each value by the mean of three gates: of its channel, its row and its column.

    Args:
        channels: C.
        rank: 1, 2 or 3.
        kernel_size: k, odd, along the channels; None for the choice by C.
        channel: whether channels have a gate, too.

    Shape:
        x (N, C, ...) -> (N, C, ...)
    """

    def __init__(
        self,
        channels: int,
        *,
        rank: int = 2,
        kernel_size: int | None = None,
        channel: bool = True,
    ) -> None:
        super().__init__()
        k = odd_kernel(kernel_size or adaptive_kernel(channels))
        self.axes = nn.ModuleList(Along(axis, ALONG, rank) for axis in positions(rank))
        self.channel = Along(1, k, rank) if channel else None

    def forward(self, x: Tensor) -> Tensor:
        """Returns `x` times the mean of its gates."""
        gates = [gate(x) for gate in self.axes]
        if self.channel is not None:
            gates.append(self.channel(x))
        total = gates[0]
        for gate in gates[1:]:
            total = total + gate
        return x * (total / len(gates))
