"""Pyramid squeeze attention: convolutions of several kernels, weighted channel by channel.

    z_i = conv of kernel k_i (x), C/4 channels each
    w = softmax over i of sigmoid(W2 relu(W1 mean(z_i)))
    y = [w_4 z_4, w_3 z_3, w_2 z_2, w_1 z_1]

Zhang et al., "EPSANet: An Efficient Pyramid Squeeze Attention Block on Convolutional Neural
Network", ACCV 2022, https://arxiv.org/abs/2105.14447
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attnsurgeon.attention.checks import hidden_width, odd_kernel
from attnsurgeon.attention.convs.geometry import Conv, alike
from attnsurgeon.attention.identity import replacing
from attnsurgeon.attention.kernels import kernel_along
from attnsurgeon.attention.partition import groups_of
from attnsurgeon.attention.pictures import Picture
from attnsurgeon.attention.pooling import Mean
from attnsurgeon.attention.registry import mechanism
from attnsurgeon.attention.shapes import per_channel, unflatten
from attnsurgeon.errors import MechanismError


def scales(
    conv: Conv, kernels: tuple[int, ...], groups: tuple[int, ...]
) -> list[tuple[tuple[int, ...], int]]:
    """Returns kernel and groups of each convolution, checked against the channels."""
    if len(kernels) != len(groups):
        raise MechanismError(
            f"kernels={kernels} and groups={groups} are not of one length",
            "give one number of groups for each kernel",
        )
    if conv.groups > 1:
        raise MechanismError(
            f"it replaces a convolution of one group by groups of its own, not one of "
            f"{conv.groups} groups",
            "sk keeps the groups of the convolution",
        )
    width = conv.out_channels // groups_of(conv.out_channels, len(kernels))
    for number in groups:
        groups_of(conv.in_channels, number)
        groups_of(width, number)
    rank = len(conv.kernel_size)
    sizes = [kernel_along(odd_kernel(k), rank) for k in kernels]
    return list(zip(sizes, groups, strict=True))


def count(conv: Conv, kernels: tuple[int, ...], groups: tuple[int, ...], reduction: int) -> int:
    """Returns the number of parameters."""
    width = conv.out_channels // len(kernels)
    m = hidden_width(width, reduction)
    forms = scales(conv, kernels, groups)
    windows = sum(math.prod(size) * conv.in_channels // number for size, number in forms)
    biases = conv.out_channels if conv.bias is not None else 0
    return windows * width + biases + 2 * width * m + m + width


@mechanism(
    "psa",
    kind="conv",
    ranks=(1, 2, 3),
    bottleneck=("fc1",),
    placement="block-conv3x3",
    picture=Picture(
        ("branches",),
        "w, the weights of the scales in the order of the output, which add up to 1",
        lambda seen: {"branches": seen.last("softmax")},
    ),
    formula="sum of k_i^2 C_in c / groups_i + 2c(c//r) + c//r + c, c = C/4; "
    "k_i for k_i^2 at rank 1",
    count=count,
    identity=replacing(),
    constraints=(
        "a convolution of one group, whose output channels are a multiple of the number of kernels",
        "each number of groups divides C_in and c; c >= reduction, so C >= 64 by default",
        "the convolution pads with zeros, and alike on both sides",
    ),
    deviations=(
        "as in the authors' code, the softmax is taken of sigmoids and the convolution listed "
        "last comes first in the output",
        "every convolution has the stride and the dilation of the replaced one, and biases where "
        "it has them",
        "ranks 1 and 3 are not the authors': kernels are k long, or cover three frames at most",
    ),
    limits=(
        "pruning: the scales side by side have to stay of one width, and a pruner narrows each by "
        "itself",
    ),
)
class PSA(nn.Module):
    """Convolves at several scales, each with a share of the channels, and weighs the scales.

    Args:
        conv: the convolution that is replaced.
        kernels: of the convolutions side by side.
        groups: of each of them.
        reduction: r, by which the hidden layer of the weights is narrower than a scale.

    Shape:
        x (N, C_in, ...) -> (N, C, ...), of the size that `conv` makes
    """

    def __init__(
        self,
        conv: Conv,
        *,
        kernels: tuple[int, ...] = (3, 5, 7, 9),
        groups: tuple[int, ...] = (1, 4, 8, 16),
        reduction: int = 16,
    ) -> None:
        super().__init__()
        forms = scales(conv, tuple(kernels), tuple(groups))
        width, bias = conv.out_channels // len(forms), conv.bias is not None
        m = hidden_width(width, reduction)
        self.rank = len(conv.kernel_size)
        # In the order of the output.
        self.scales = nn.ModuleList(
            alike(conv, conv.in_channels, width, kernel=size, groups=number, bias=bias)
            for size, number in reversed(forms)
        )
        self.pool = Mean(rank=self.rank)
        self.fc1 = nn.Linear(width, m)
        self.fc2 = nn.Linear(m, width)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Starts the layers that compute the weights as the authors' networks do."""
        for layer in (self.fc1, self.fc2):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Returns the weighted scales side by side."""
        z = torch.cat([scale(x) for scale in self.scales], dim=1)  # (N, C, ...)
        squeezed = unflatten(self.pool(z), 1, (len(self.scales), -1))  # (N, scales, c)
        weight = self.fc2(F.relu(self.fc1(squeezed))).sigmoid().softmax(dim=1)
        return z * per_channel(weight.flatten(1).to(z.dtype), self.rank)
