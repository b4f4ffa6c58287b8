"""Selective kernels: two convolutions side by side, mixed channel by channel.

    a = relu(batchnorm(conv(x)))
    b = relu(batchnorm(grouped conv(x)))
    w = softmax over the two of W2 relu(batchnorm(W1 mean(a + b)))
    y = w_a * a + w_b * b

Li et al., "Selective Kernel Networks", CVPR 2019, https://arxiv.org/abs/1903.06586
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.fx
from torch import Tensor, nn
from torch.nn import functional as F

from attnsurgeon.attention.convs.geometry import Conv, alike
from attnsurgeon.attention.identity import replacing
from attnsurgeon.attention.norms import ONE_VALUE, BatchNorm
from attnsurgeon.attention.partition import groups_of
from attnsurgeon.attention.pictures import Picture, Seen
from attnsurgeon.attention.pooling import Mean
from attnsurgeon.attention.registry import mechanism
from attnsurgeon.attention.shapes import per_channel
from attnsurgeon.errors import MechanismError


def hidden(channels: int, reduction: int, minimum: int) -> int:
    """Returns d, the width between the two layers that compute the weights."""
    return max(channels // reduction, minimum)


def shares(seen: Seen) -> dict[str, Tensor]:
    """Returns what the two branches have in each channel, (N, 2, C)."""
    weight = seen.last("sigmoid")
    return {"branches": torch.stack((weight, 1 - weight), dim=1)}


def taken(conv: Conv, split: bool) -> int:
    """Returns how many of the input's channels a branch convolves."""
    if split and conv.in_channels % 2:
        raise MechanismError(
            f"split halves the input's channels, and there are {conv.in_channels}",
            "leave split out",
        )
    return conv.in_channels // (2 if split else 1)


def count(conv: Conv, groups: int, reduction: int, minimum: int, split: bool) -> int:
    """Returns the number of parameters."""
    inputs, outputs, window = taken(conv, split), conv.out_channels, math.prod(conv.kernel_size)
    d = hidden(outputs, reduction, minimum)
    branches = window * inputs * outputs // conv.groups + window * inputs * outputs // groups
    return branches + 4 * outputs + 3 * outputs * d + 2 * d


def site_args(conv: Conv) -> dict[str, int]:
    """Groups of one channel beside a depthwise convolution, whose channels do not mix."""
    alone = 1 < conv.groups == conv.in_channels == conv.out_channels
    return {"groups": conv.groups} if alone else {}


def adopt(module: nn.Module, conv: Any) -> None:
    """Lets the first branch start with the weight of the replaced convolution, where asked for."""
    for sk in module.modules():
        if isinstance(sk, SK) and sk.warm_start:
            ours, theirs = sk.first[0].get_parameter("weight"), conv.weight
            if ours.shape != theirs.shape:
                raise MechanismError(
                    f"warm_start: the first branch has a weight of {tuple(ours.shape)} and the "
                    f"replaced convolution one of {tuple(theirs.shape)}",
                    "leave warm_start out",
                )
            with torch.no_grad():
                ours.copy_(theirs)


@torch.fx.wrap
def share(a: Tensor, b: Tensor) -> Tensor:
    """Returns a's part of the softmax over two, as one step for torch.fx: see `opened`."""
    return (a - b).sigmoid()


@mechanism(
    "sk",
    kind="conv",
    ranks=(1, 2, 3),
    placement="block-conv",
    picture=Picture(("branches",), "w_a and w_b, which add up to 1 in each channel", shares),
    formula="k^2 C_in C / own groups + k^2 C_in C / groups + 4C + 3Cd + 2d, "
    "d = max(C//r, minimum); C_in/2 for C_in with split=True",
    count=count,
    identity=replacing(),
    constraints=(
        "groups divide the convolution's input and output channels",
        "the convolution pads with zeros, and alike on both sides",
    ),
    deviations=(
        "the default is SK-ResNet of the authors' second code: the replaced convolution is "
        "branch one, branch two has 32 groups and the same kernel, d = C//16",
        "dilation=2, minimum=32 on a ResNeXt, whose convolutions have 32 groups themselves, is "
        "the paper's SKNet; groups=1, dilation=2 is what DCANet's code calls SK",
        "beside a depthwise convolution, which a plan knows, branch two is depthwise as well, as "
        "in DCANet's MobileNetV2",
        "split=True is timm's, not the authors', with groups=1, dilation=2, minimum=8",
        "the dilation of branch two multiplies the convolution's own",
        "ranks 1 and 3 are not the authors': kernels and means run over signal or clip",
        ONE_VALUE,
    ),
    swallows_norm=True,
    site_args=site_args,
    adopt=adopt,
)
class SK(nn.Module):
    """Mixes two convolutions of different kernels by weights computed from their means.

    Args:
        conv: the convolution that is replaced; the first branch has its form.
        groups: of the second branch.
        dilation: by how much further apart the second branch looks.
        reduction: r, by which the hidden layer is narrower than C.
        minimum: the least that the hidden layer may have.
        split: whether each branch convolves a half of the input's channels, instead of all.
        warm_start: the first branch starts with the weight of the replaced convolution.

    Shape:
        x (N, C_in, ...) -> (N, C, ...), of the size that `conv` makes
    """

    split: bool = False  # as in networks pickled before there was a choice

    def __init__(
        self,
        conv: Conv,
        *,
        groups: int = 32,
        dilation: int = 1,
        reduction: int = 16,
        minimum: int = 1,
        split: bool = False,
        warm_start: bool = False,
    ) -> None:
        super().__init__()
        inputs, channels = taken(conv, split), conv.out_channels
        for number in (inputs, channels):
            groups_of(number, groups)
        groups_of(inputs, conv.groups)
        d = hidden(channels, reduction, minimum)
        apart = tuple(dilation * step for step in conv.dilation)

        def branch(made: Conv) -> nn.Sequential:
            return nn.Sequential(made, BatchNorm(channels), nn.ReLU())

        self.rank = len(conv.kernel_size)
        self.split = split
        self.warm_start = warm_start
        self.first = branch(alike(conv, inputs, channels, groups=conv.groups))
        self.second = branch(alike(conv, inputs, channels, dilation=apart, groups=groups))
        self.pool = Mean(rank=self.rank)
        self.fc1 = nn.Linear(channels, d, bias=False)
        self.norm = BatchNorm(d)
        self.fc2 = nn.Linear(d, 2 * channels, bias=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Starts the layers that compute the weights as the authors' networks do."""
        for layer in (self.fc1, self.fc2):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Returns the mix of the two branches."""
        for_first, for_second = x.chunk(2, dim=1) if self.split else (x, x)
        a, b = self.first(for_first), self.second(for_second)
        squeezed = F.relu(self.norm(self.fc1(self.pool(a) + self.pool(b))))
        for_a, for_b = self.fc2(squeezed).chunk(2, dim=1)  # (N, C) each
        weight = share(for_a, for_b)
        return torch.lerp(b, a, per_channel(weight, self.rank))
