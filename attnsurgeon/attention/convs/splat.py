"""Split attention: groups of a convolution's outputs, mixed channel by channel.

    u_j = relu(batchnorm(conv_j(x))), j one of several splits
    a = softmax over j of W2 relu(batchnorm(W1 mean(sum of u_j))), of one split a sigmoid
    y = sum of a_j u_j

Zhang et al., "ResNeSt: Split-Attention Networks", CVPR Workshops 2022,
https://arxiv.org/abs/2004.08955
"""

from __future__ import annotations

import math

from torch import Tensor, nn
from torch.nn import functional as F

from attnsurgeon.attention.convs.geometry import Conv, alike
from attnsurgeon.attention.identity import replacing
from attnsurgeon.attention.norms import ONE_VALUE, BatchNorm
from attnsurgeon.attention.partition import groups_of
from attnsurgeon.attention.pictures import Picture, Seen
from attnsurgeon.attention.pooling import Mean
from attnsurgeon.attention.registry import mechanism
from attnsurgeon.attention.shapes import per_channel, unflatten
from attnsurgeon.errors import MechanismError

LEAST = 32  # channels between the two layers


def hidden(conv: Conv, radix: int, reduction: int) -> int:
    """Returns the width between the two layers, which the groups of the convolution divide."""
    width = max(conv.in_channels * radix // reduction, LEAST)
    if width % conv.groups:
        raise MechanismError(
            f"the {conv.groups} groups of the convolution do not divide a hidden layer of {width}",
            "it is for convolutions of few groups",
        )
    return width


def count(conv: Conv, radix: int, reduction: int) -> int:
    """Returns the number of parameters."""
    c, m, groups = conv.out_channels, hidden(conv, radix, reduction), conv.groups
    windows = math.prod(conv.kernel_size) * conv.in_channels * c // groups
    return (
        windows + 2 * radix * c + c * m // groups + m + 2 * m + m * radix * c // groups + radix * c
    )


def shares(seen: Seen) -> dict[str, Tensor]:
    """Returns what the splits have in each channel, (N, R, C)."""
    step = "sigmoid" if seen.module.radix == 1 else "softmax"
    return {"branches": seen.last(step).flatten(2)}


@mechanism(
    "splat",
    kind="conv",
    ranks=(1, 2, 3),
    placement="block-conv3x3",
    picture=Picture(
        ("branches",),
        "a, the shares of the splits, which add up to 1 in each channel; the gate of a single one",
        shares,
    ),
    formula="k^2 C_in C / g + 2RC + Cm / g + 3m + R m C / g + RC, m = max(R C_in//r, 32), R = 2, "
    "g the convolution's groups",
    count=count,
    identity=replacing(),
    constraints=(
        "radix times the convolution's groups divide its input channels",
        "the convolution pads with zeros, and alike on both sides",
    ),
    limits=(
        "pruning: the parts side by side have to stay of one width, and a pruner narrows each by "
        "itself",
    ),
    deviations=(
        "the authors' networks of the same name have a deeper stem and pool before they convolve "
        "with a stride; here the convolution alone is replaced, and has the stride",
        "the convolution has no bias, which the norm behind it takes away; that of the authors' "
        "networks has none either",
        "the bias straight before a batch norm is kept to have the authors' parameters; it cannot "
        "learn while the norm uses batch statistics",
        "ranks 1 and 3 are not the authors': kernels and means run over signal or clip",
        ONE_VALUE,
    ),
    unmoved=("fc1.bias",),
    swallows_norm=True,
)
class SplAt(nn.Module):
    """Convolves into several splits and mixes them by weights computed from their means.

    Args:
        conv: the convolution that is replaced; it is made with more groups.
        radix: R, the number of splits; 1 for a gate of the convolution alone.
        reduction: r, by which the hidden layer is narrower.

    Shape:
        x (N, C_in, ...) -> (N, C, ...), of the size that `conv` makes
    """

    def __init__(self, conv: Conv, *, radix: int = 2, reduction: int = 4) -> None:
        super().__init__()
        channels, m = conv.out_channels, hidden(conv, radix, reduction)
        groups_of(conv.in_channels, radix * conv.groups)
        self.rank = len(conv.kernel_size)
        self.radix, self.groups = radix, conv.groups
        self.conv = alike(conv, conv.in_channels, radix * channels, groups=radix * conv.groups)
        self.norm = BatchNorm(radix * channels)
        self.pool = Mean(rank=self.rank)
        self.fc1 = nn.Conv1d(channels, m, 1, groups=conv.groups)
        self.norm1 = BatchNorm(m)
        self.fc2 = nn.Conv1d(m, radix * channels, 1, groups=conv.groups)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Starts as the authors' networks do."""
        for layer in (self.conv, self.fc1, self.fc2):
            outputs = math.prod(layer.kernel_size) * layer.out_channels
            nn.init.normal_(layer.weight, std=math.sqrt(2 / outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Returns the splits, mixed."""
        splits = unflatten(F.relu(self.norm(self.conv(x))), 1, (self.radix, -1))  # (N, R, C, ...)
        total = splits.sum(1)
        z = self.fc2(F.relu(self.norm1(self.fc1(self.pool(total).unsqueeze(2))))).squeeze(2)
        z = unflatten(z, 1, (self.groups, self.radix, -1)).transpose(1, 2)
        shares = z.sigmoid() if self.radix == 1 else z.softmax(1)
        shares = shares.flatten(2).to(total.dtype)  # (N, R, C)
        mixed = splits[:, 0] * per_channel(shares[:, 0], self.rank)
        for j in range(1, self.radix):
            mixed = mixed + splits[:, j] * per_channel(shares[:, j], self.rank)
        return mixed
