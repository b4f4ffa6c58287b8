"""Involution: each position makes the kernel that its window is summed by, shared by channels.

    w_i = W2 relu(batchnorm(W1 x_i)), one kernel for each group of channels
    y_i = sum over the window around i of w_i * x

Li et al., "Involution: Inverting the Inherence of Convolution for Visual Recognition", CVPR 2021,
https://arxiv.org/abs/2103.06255
"""

from __future__ import annotations

import math

import torch
import torch.fx
from torch import Tensor, nn
from torch.nn import functional as F

from attnsurgeon.attention.checks import hidden_width, odd_kernel
from attnsurgeon.attention.convs.geometry import Conv
from attnsurgeon.attention.convs.local import in_its_place, local_sums, tile_means, window_of
from attnsurgeon.attention.identity import replacing
from attnsurgeon.attention.kernels import kernel_along
from attnsurgeon.attention.norms import ONE_VALUE, BatchNorm
from attnsurgeon.attention.partition import most_groups
from attnsurgeon.attention.pictures import Picture, Seen
from attnsurgeon.attention.registry import mechanism
from attnsurgeon.attention.shapes import CONV, unflatten

torch.fx.wrap("local_sums")
torch.fx.wrap("tile_means")


def looks(seen: Seen) -> dict[str, Tensor]:
    """Returns the kernel of one position, the mean over the groups, where it lies on the map."""
    module = seen.module
    weight = module.kernels(seen.values[0]).mean((1, 2))  # (N, window, ...)
    return {"attention": window_of(seen, weight, module.kernel, module.stride, module.dilation)}


def group_size(channels: int, limit: int) -> int:
    """Returns how many channels share a kernel: the largest number up to the limit that divides."""
    return most_groups(channels, limit)


def count(conv: Conv, kernel_size: int, reduction: int, share: int) -> int:
    """Returns the number of parameters."""
    channels = conv.in_channels
    m, groups = hidden_width(channels, reduction), channels // group_size(channels, share)
    window = math.prod(kernel_along(odd_kernel(kernel_size), len(conv.kernel_size)))
    return channels * m + 2 * m + m * window * groups + window * groups


@mechanism(
    "involution",
    kind="conv",
    ranks=(1, 2, 3),
    placement="block-conv3x3",
    picture=Picture(
        ("attention",), "the kernel of the position that was asked for, mean over groups", looks
    ),
    formula="Cm + 2m + m K C / s + K C / s, m = C//r, K = 7^2, s = 16; K = 7 at rank 1, "
    "3 * 7^2 at rank 3",
    count=count,
    identity=replacing(),
    constraints=(
        "a convolution that keeps the number of channels and all positions, but for its stride",
        "kernel_size is odd",
    ),
    limits=(
        "pruning: Torch-Pruning is still at work after ten seconds on a network of three blocks",
        'FX int8, PT2E int8: under init="paper" the error is five to six times that of the bare '
        "network: kernels of every position go through eight bits",
    ),
    deviations=(
        "where 16 channels to a kernel do not divide C, the largest number below that does",
        "with a stride the kernels are made from means over tiles, as in the authors' code; where "
        "the stride does not divide a side, the last tile is smaller, and that code raises",
        "the groups and the kernel of the convolution do not matter, its stride and dilation do",
        "ranks 1 and 3 are not the authors': the kernel is 7 long, or covers three frames",
        ONE_VALUE,
    ),
)
class Involution(nn.Module):
    """Sums the window of each position by a kernel that is made from the position itself.

    Args:
        conv: the convolution that is replaced.
        kernel_size: of the window, odd.
        reduction: r, by which the hidden layer is narrower.
        share: how many channels have the same kernel, or the largest number below that divides C.

    Shape:
        x (N, C, ...) -> (N, C, ...), of the size that `conv` makes
    """

    def __init__(
        self, conv: Conv, *, kernel_size: int = 7, reduction: int = 4, share: int = 16
    ) -> None:
        super().__init__()
        channels, rank = in_its_place(conv).in_channels, len(conv.kernel_size)
        m = hidden_width(channels, reduction)
        self.groups = channels // group_size(channels, share)
        self.kernel = kernel_along(odd_kernel(kernel_size), rank)
        self.stride = conv.stride
        self.dilation = conv.dilation
        self.reduce = CONV[rank](channels, m, 1, bias=False)
        self.norm = BatchNorm(m)
        self.span = CONV[rank](m, math.prod(self.kernel) * self.groups, 1)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Starts as the authors' networks do."""
        for layer in (self.reduce, self.span):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)

    def kernels(self, x: Tensor) -> Tensor:
        """Returns (N, groups, 1, window, ...): a kernel for each position of the output."""
        z = self.span(F.relu(self.norm(self.reduce(tile_means(x, self.stride)))))
        return unflatten(z, 1, (self.groups, -1)).unsqueeze(2)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the sums."""
        return local_sums(x, self.kernels(x), self.groups, self.kernel, self.stride, self.dilation)

    def extra_repr(self) -> str:
        """Returns what the parameters do not show."""
        return f"groups={self.groups}, kernel={self.kernel}, stride={self.stride}"
