"""Triplet attention: three spatial gates, each over two of the axes C, H and W.

    gate over a pair = sigmoid(batchnorm(conv_k([max, mean] over the third axis)))
    y = x * (gate(H, W) + gate(C, W) + gate(H, C)) / 3

Misra et al., "Rotate to Attend: Convolutional Triplet Attention Module", WACV 2021,
https://arxiv.org/abs/2010.03045
"""

from __future__ import annotations

import math

import torch
import torch.fx
from torch import Tensor, nn

from attnsurgeon.attention.checks import odd_kernel
from attnsurgeon.attention.identity import Gate, native
from attnsurgeon.attention.kernels import around, kernel_along
from attnsurgeon.attention.maxima import Largest
from attnsurgeon.attention.norms import ONE_VALUE, BatchNorm
from attnsurgeon.attention.pictures import multiplied
from attnsurgeon.attention.pooling import Mean
from attnsurgeon.attention.registry import mechanism
from attnsurgeon.attention.shapes import CONV


def kernels(kernel_size: int, rank: int) -> list[tuple[int, ...]]:
    """Returns the kernel of each gate, in the order of the axis that it pools: C, then positions.

    The channels take the place of the axis pooled, and their kernel is k there.
    """
    k = kernel_along(kernel_size, rank)
    places = [(*k[:place], kernel_size, *k[place + 1 :]) for place in range(rank)]
    return [k, *places]


def count(rank: int, kernel_size: int, spatial: bool) -> int:
    """Returns the number of parameters."""
    return sum(2 * math.prod(k) + 2 for k in kernels(kernel_size, rank)[0 if spatial else 1 :])


@torch.fx.wrap
def mean_of(gates: list[Tensor]) -> Tensor:
    """Returns the mean of the gates, as large as the map, in the memory of their first sum."""
    total = gates[0] + gates[1]
    for gate in gates[2:]:
        total.add_(gate)
    return total.div_(len(gates))


@mechanism(
    "triplet",
    kind="gate",
    ranks=(2, 3),
    rank_reason="(each of its gates is blind to one axis and sees a pair; along a single axis "
    "there is one pair, and nothing to be blind to)",
    placement="block-branch",
    picture=multiplied("both", how="the mean of the gates"),
    formula="3(2k^2 + 2); 3(2 * 3k^2 + 2) + 2k^3 + 2 at rank 3; one 2k^2 + 2, "
    "or 2 * 3k^2 + 2, less with spatial=False",
    count=count,
    identity=native(
        "norms", how="the norms start at zero and the gates are 2 * sigmoid, so their mean is 1"
    ),
    constraints=("kernel_size is odd",),
    deviations=(
        "rank 3 is not the authors': four gates, each over three of C, D, H and W, whose kernels "
        "have k places along C, H and W and 3 along D, as clips have few frames",
        ONE_VALUE,
    ),
)
class Triplet(nn.Module):
    """Reweights each value by three gates, each blind to one axis.

    Args:
        channels: C; no parameter depends on it.
        rank: 2 or 3.
        kernel_size: k, odd.
        spatial: whether there is a gate that is blind to the channels.

    Shape:
        x (N, C, ...) -> (N, C, ...)
    """

    first: int = 1  # axis with a gate; networks pickled before there was a choice have this one

    def __init__(
        self, channels: int, *, rank: int = 2, kernel_size: int = 7, spatial: bool = True
    ) -> None:
        super().__init__()
        self.first = 1 if spatial else 2
        sizes = kernels(odd_kernel(kernel_size), rank)[self.first - 1 :]
        self.largest = Largest()
        self.mean = Mean(axes=(1,), keepdim=True)
        convs = (CONV[rank](2, 1, k, padding=around(k), bias=False) for k in sizes)
        self.convs = nn.ModuleList(convs)
        self.norms = nn.ModuleList(BatchNorm(1, momentum=0.01) for _ in sizes)
        self.gate = Gate()

    def forward(self, x: Tensor) -> Tensor:
        """Returns `x` times the mean of the gates."""
        gates = []
        for axis, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True), self.first):
            # A view, no copy: the axis to pool and the channels change places.
            turned = x.transpose(1, axis)
            pooled = torch.cat((self.largest(turned), self.mean(turned)), dim=1)
            gates.append(self.gate(norm(conv(pooled))).transpose(1, axis))
        return x * mean_of(gates).to(x.dtype)
