"""Dynamic convolution: each image takes a mean of several kernels, weighed by a softmax.

    a = softmax of (W2 relu(W1 mean(x))) / t
    w' = sum over k of a_k w_k, where w_1 is the convolution's own weight

Chen et al., "Dynamic Convolution: Attention over Convolution Kernels", CVPR 2020,
https://arxiv.org/abs/1912.03458
"""

from __future__ import annotations

import torch.fx
from torch import Tensor, nn
from torch.nn import functional as F

from attnsurgeon.attention.convs.geometry import Conv
from attnsurgeon.attention.identity import Identity
from attnsurgeon.attention.pictures import Picture
from attnsurgeon.attention.pooling import Mean
from attnsurgeon.attention.registry import mechanism
from attnsurgeon.attention.weights.experts import Experts, mixed, several, shares
from attnsurgeon.errors import MechanismError

torch.fx.wrap("mixed")
COLOURS = 3  # input channels of a stem, for which the authors' copies have K hidden units


def hidden(channels: int, kernels: int, reduction: int) -> int:
    """Returns the width between the two layers."""
    return kernels if channels == COLOURS else channels // reduction + 1


def count(conv: Conv, kernels: int, reduction: int) -> int:
    """Returns the number of parameters."""
    m = hidden(conv.in_channels, kernels, reduction)
    return conv.in_channels * m + m * kernels + kernels + (kernels - 1) * conv.weight.numel()


def start(module: nn.Module, replaced: nn.Module | None) -> nn.Module:
    """Makes the other kernels differences from the first, of zero."""
    assert isinstance(module, DyConv)
    module.experts.at_rest()
    return module


@mechanism(
    "dyconv",
    kind="weight",
    ranks=(1, 2, 3),
    bottleneck=("fc1",),
    placement="conv",
    picture=Picture(("branches",), "a, the share of each kernel, the first being the old", shares),
    formula="C_in m + mK + K + (K - 1) k^2 C_in C / groups, m = C_in//r + 1, K = 4",
    count=count,
    identity=Identity(
        "native",
        "the other kernels are what they differ by from the first, and start at zero: since the "
        "shares add up to 1, w' = w_1 + sum of a_k d_k, and the sum is convolved apart",
        start,
    ),
    constraints=("kernels >= 2", "temperature > 0"),
    limits=(
        "pruning: it changes the weight of a convolution, and a pruner follows only what the "
        "layers make of the map",
    ),
    deviations=(
        "its authors have published no code: compared with a third party's, whose hidden layer has "
        "one unit more than C // 4",
        "the temperature is that of the paper's start, 30; the authors lower it to 1 over the "
        "first epochs: set `temperature` of the modules while training",
        "one bias serves all kernels, where the paper mixes biases as well",
        "the first kernel is the weight that is there, so a pretrained one is not lost",
        "the authors leave the first convolution as it is; the placement takes all, and rules take "
        "fewer",
    ),
    lighter="kernels=2, or a placement that takes few convolutions, as block-conv3x3",
    takes=("weight", "value"),
    per_sample=True,
)
class DyConv(nn.Module):
    """Changes the weight of a convolution for each image to a mean of several kernels.

    Args:
        conv: the convolution whose weight it is.
        kernels: K, the weight that is there among them.
        reduction: r, by which the hidden layer is narrower.
        temperature: t, by which scores are divided before their softmax.

    Shape:
        weight (C, C_in / groups, ...), x (N, C_in, ...) -> (N, C, C_in / groups, ...);
        under the identity start the weight itself, and what is added to it for each image
    """

    def __init__(
        self, conv: Conv, *, kernels: int = 4, reduction: int = 4, temperature: float = 30.0
    ) -> None:
        super().__init__()
        if temperature <= 0:
            raise MechanismError(f"temperature={temperature:g} is not above 0", "use 30")
        m = hidden(conv.in_channels, several(kernels), reduction)
        self.temperature = float(temperature)
        self.pool = Mean(rank=len(conv.kernel_size))
        self.fc1 = nn.Linear(conv.in_channels, m, bias=False)
        self.fc2 = nn.Linear(m, kernels)
        self.experts = Experts(conv, kernels)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Starts as the copies of the authors' networks do."""
        for layer in (self.fc1, self.fc2):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.fc2.bias)
        for kernel in self.experts.kernels:
            nn.init.kaiming_uniform_(kernel)

    def shares(self, x: Tensor) -> Tensor:
        """Returns a, (N, K)."""
        scores = self.fc2(F.relu(self.fc1(self.pool(x))))
        return (scores / self.temperature).softmax(1)

    def forward(self, weight: Tensor, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Returns a weight for each image, or the weight and what each image adds to it."""
        shares = self.shares(x)
        if self.experts.apart:
            return weight, self.experts.others(shares, weight).to(weight.dtype)
        return mixed(weight, self.experts.weight, shares)

    def extra_repr(self) -> str:
        """Returns the temperature."""
        return f"temperature={self.temperature:g}"
