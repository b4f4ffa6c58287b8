"""Global attention: a gate a value from its channels, then one from its neighbourhood.

    u = x * mlp(x), the two-layer mlp over the channels of each position
    y = u * sigmoid(batchnorm(conv_k(relu(batchnorm(conv_k(u))))))

Liu et al., "Global Attention Mechanism: Retain Information to Enhance Channel-Spatial
Interactions", arXiv 2021, https://arxiv.org/abs/2112.05561
"""

from __future__ import annotations

import math

from torch import Tensor, nn
from torch.nn import functional as F

from attnsurgeon.attention.checks import hidden_width, odd_kernel
from attnsurgeon.attention.identity import Gate, Identity, open_gates, zero
from attnsurgeon.attention.kernels import around, kernel_along
from attnsurgeon.attention.norms import ONE_VALUE, BatchNorm
from attnsurgeon.attention.partition import groups_of
from attnsurgeon.attention.pictures import multiplied
from attnsurgeon.attention.registry import mechanism
from attnsurgeon.attention.shapes import CONV, shuffle


def width(channels: int, reduction: int, groups: int) -> int:
    """Returns the number of hidden channels of both gates, which the groups have to divide."""
    m = hidden_width(channels, reduction)
    groups_of(channels, groups)
    groups_of(m, groups)
    return m


def count(channels: int, rank: int, reduction: int, groups: int, kernel_size: int) -> int:
    """Returns the number of parameters."""
    m = width(channels, reduction, groups)
    taps = math.prod(kernel_along(kernel_size, rank))
    mlp = 2 * channels * m + m + channels
    return mlp + 2 * (taps * channels * m // groups) + m + channels + 2 * m + 2 * channels


def start(module: nn.Module, replaced: nn.Module | None) -> nn.Module:
    """Makes the mlp a constant 1, or 0 before a sigmoid, and each gate 2 * sigmoid(0)."""
    assert isinstance(module, GAM)
    zero(module, "fc2", "norm2")
    if not isinstance(module.channel_gate, Gate):
        nn.init.ones_(module.get_parameter("fc2.bias"))
    open_gates(module)
    return module


@mechanism(
    "gam",
    kind="gate",
    ranks=(1, 2, 3),
    bottleneck=("fc1",),
    placement="block-branch",
    picture=multiplied(
        "both", how="the product of the gate from the channels and that from around"
    ),
    formula="2Cm + m + C + 2(k^2 Cm / g) + m + C + 2m + 2C, m = C//r; k for k^2 at rank 1, 3k^2 at "
    "rank 3",
    count=count,
    identity=Identity(
        "native", "fc2 starts as a constant 1, norm2 at zero, and the gate is 2 * sigmoid", start
    ),
    constraints=("C >= reduction", "groups divides C and C // reduction", "kernel_size is odd"),
    deviations=(
        "there is no code of the authors; copies differ. As in most of them the channel gate has "
        "no sigmoid (sigmoid=True has one), the convolutions are dense and padded with zeros",
        "without that sigmoid the output grows with the square of the input, and float16 holds it "
        "for inputs up to a few hundred; sigmoid=True, the identity start and bfloat16 hold more",
        "with groups=4, as copies have it, the channels are shuffled between the two "
        "convolutions, so that a gate sees other groups too; copies shuffle the finished gates",
        "the biases straight before a batch norm are kept to have the copies' parameters; they "
        "cannot learn while it uses batch statistics",
        "ranks 1 and 3 are not the authors': the kernels are k long, or (3, k, k), as clips have "
        "few frames",
        ONE_VALUE,
    ),
    unmoved=("conv1.bias", "conv2.bias"),
    lighter="groups=4 has a quarter of the convolutions' weights: 159 M instead of 529 M "
    "parameters for a ResNet-50 with one in each bottleneck",
)
class GAM(nn.Module):
    """Reweights each value from all channels at its position, then from all around it.

    Args:
        channels: C.
        rank: 1, 2 or 3.
        reduction: r, by which both gates are computed with fewer channels.
        groups: of the convolutions; more than 1 makes it lighter.
        kernel_size: k of the convolutions, odd.
        sigmoid: whether the channel gate ends with one, as in some copies.

    Shape:
        x (N, C, ...) -> (N, C, ...)
    """

    def __init__(
        self,
        channels: int,
        *,
        rank: int = 2,
        reduction: int = 4,
        groups: int = 1,
        kernel_size: int = 7,
        sigmoid: bool = False,
    ) -> None:
        super().__init__()
        m = width(channels, reduction, groups)
        k = kernel_along(odd_kernel(kernel_size), rank)
        self.groups = groups
        self.fc1 = CONV[rank](channels, m, 1)
        self.fc2 = CONV[rank](m, channels, 1)
        self.channel_gate = Gate() if sigmoid else nn.Identity()
        self.conv1 = CONV[rank](channels, m, k, padding=around(k), groups=groups)
        self.norm1 = BatchNorm(m)
        self.conv2 = CONV[rank](m, channels, k, padding=around(k), groups=groups)
        self.norm2 = BatchNorm(channels)
        self.gate = Gate()

    def forward(self, x: Tensor) -> Tensor:
        """Returns `x` times its channel gates, times the gates from around them."""
        by_channel = self.channel_gate(self.fc2(F.relu(self.fc1(x))))
        x = x * by_channel.to(x.dtype)
        z = self.norm1(self.conv1(x)).relu_()
        if self.groups > 1:
            z = shuffle(z, self.groups)
        return x * self.gate(self.norm2(self.conv2(z))).to(x.dtype)
