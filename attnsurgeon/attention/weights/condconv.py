"""Conditionally parameterised convolution: each image adds several kernels by gates of its own.

    r = sigmoid(W mean(x))
    w' = sum over k of r_k w_k, where w_1 is the convolution's own weight

Yang et al., "CondConv: Conditionally Parameterized Convolutions for Efficient Inference",
NeurIPS 2019, https://arxiv.org/abs/1904.04971
"""

from __future__ import annotations

import math

import torch
import torch.fx
from torch import Tensor, nn

from attnsurgeon.attention.convs.geometry import Conv
from attnsurgeon.attention.identity import Gate, Identity, open_gates
from attnsurgeon.attention.pictures import Picture
from attnsurgeon.attention.pooling import Mean
from attnsurgeon.attention.registry import mechanism
from attnsurgeon.attention.weights.experts import Experts, mixed, several, shares

torch.fx.wrap("mixed")


def count(conv: Conv, kernels: int) -> int:
    """Returns the number of parameters."""
    return conv.in_channels * kernels + kernels + (kernels - 1) * conv.weight.numel()


def start(module: nn.Module, replaced: nn.Module | None) -> nn.Module:
    """Makes the other kernels zero, and the gate of the first one 1.

    The gates of the others stay as they are: doubled, seven kernels together would learn four times
    as fast.
    """
    assert isinstance(module, CondConv)
    module.experts.at_rest()
    assert module.route.bias is not None
    with torch.no_grad():  # the others are routed at random, or they would learn the same forever
        module.route.weight[0].zero_()
        module.route.bias[0].zero_()
    open_gates(module)
    return module


@mechanism(
    "condconv",
    kind="weight",
    ranks=(1, 2, 3),
    placement="conv",
    picture=Picture(("branches",), "r, the gate of each kernel, the first being the old", shares),
    formula="C_in K + K + (K - 1) k^2 C_in C / groups, K = 8",
    count=count,
    identity=Identity(
        "native",
        "the routing of the first kernel starts at zero and its gate is 2 * sigmoid; the other "
        "kernels start at zero; what is added to the weight is convolved apart",
        start,
    ),
    constraints=("kernels >= 2",),
    limits=(
        "pruning: Torch-Pruning is still at work after ten seconds on a network of three blocks",
    ),
    deviations=(
        "8 kernels, as in the paper's main results; timm's networks have 4",
        "each convolution routes its own input, as in the paper's equation; the authors' "
        "EfficientNets route once for the three convolutions of a block, in the last blocks alone",
        "one bias serves all kernels",
        "the first kernel is the weight that is there, so a pretrained one is not lost",
    ),
    lighter="kernels=2, or a placement that takes few convolutions, as block-conv3x3",
    takes=("weight", "value"),
    per_sample=True,
)
class CondConv(nn.Module):
    """Changes the weight of a convolution for each image to a sum of several kernels.

    Args:
        conv: the convolution whose weight it is.
        kernels: K, the weight that is there among them.

    Shape:
        weight (C, C_in / groups, ...), x (N, C_in, ...) -> (N, C, C_in / groups, ...);
        under the identity start the weight itself, and what is added to it for each image
    """

    def __init__(self, conv: Conv, *, kernels: int = 8) -> None:
        super().__init__()
        self.pool = Mean(rank=len(conv.kernel_size))
        self.route = nn.Linear(conv.in_channels, several(kernels))
        self.gate = Gate()
        self.experts = Experts(conv, kernels)
        for kernel in self.experts.kernels:
            nn.init.kaiming_uniform_(kernel, a=math.sqrt(5))

    def shares(self, x: Tensor) -> Tensor:
        """Returns r, (N, K)."""
        scores = self.route(self.pool(x))
        return torch.cat((self.gate(scores[:, :1]), scores[:, 1:].sigmoid()), dim=1)

    def forward(self, weight: Tensor, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Returns a weight for each image, or the weight and what each image adds to it."""
        shares = self.shares(x)
        if self.experts.apart:
            added = torch.cat((shares[:, :1] - 1, shares[:, 1:]), dim=1)
            return weight, mixed(weight, self.experts.weight, added)
        return mixed(weight, self.experts.weight, shares)
