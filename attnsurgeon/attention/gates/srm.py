"""Style-based recalibration: mean and deviation of each channel, weighed one by one.

    z = w1 * mean(x) + w2 * sqrt(var(x) + 1e-5)
    y = x * sigmoid(batchnorm(z))

Lee et al., "SRM: A Style-based Recalibration Module for Convolutional Neural Networks",
ICCV 2019, https://arxiv.org/abs/1903.10829
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from attnsurgeon.attention.identity import Gate, native
from attnsurgeon.attention.norms import ONE_VALUE, BatchNorm
from attnsurgeon.attention.pictures import multiplied
from attnsurgeon.attention.pooling import Moments
from attnsurgeon.attention.registry import mechanism
from attnsurgeon.attention.shapes import per_channel


def alive(module: nn.Module) -> None:
    """Starts w at 1/2. At the paper's 0 all z are equal, and a batch norm divides the gradient of
    w by sqrt(1e-5): 316 times that of any other layer there.
    """
    nn.init.constant_(module.get_parameter("w"), 0.5)


@mechanism(
    "srm",
    kind="gate",
    ranks=(1, 2, 3),
    placement="block-branch",
    picture=multiplied("channel", how="the gate of each channel"),
    formula="4C",
    count=lambda channels: 4 * channels,
    identity=native(
        "norm",
        alive=alive,
        how="the batch norm's weight starts at zero, w at 1/2, and the gate is 2 * sigmoid",
    ),
    deviations=(
        "w starts at zero in the paper, straight before a batch norm, which multiplies its first "
        "gradients by 316; so init='identity' starts otherwise",
        "var is unbiased, and 1e-5 is added to it; an earlier version of the authors' code adds "
        "nothing and has no gradient on a constant map",
        "a map of one position has variance 0, where the unbiased variance is undefined",
        ONE_VALUE,
    ),
    spatial=False,
)
class SRM(nn.Module):
    """Reweights each channel by a gate computed from its own mean and standard deviation.

    Args:
        channels: C.
        rank: 1, 2 or 3.

    Shape:
        x (N, C, ...) -> (N, C, ...)
    """

    def __init__(self, channels: int, *, rank: int = 2) -> None:
        super().__init__()
        self.rank = rank
        self.style = Moments(rank=rank)
        self.w = nn.Parameter(torch.zeros(channels, 2))
        self.norm = BatchNorm(channels)
        self.gate = Gate()

    def forward(self, x: Tensor) -> Tensor:
        """Returns `x` times its channel gates."""
        mean, var = self.style(x)  # (N, C) each, float32 at least
        z = self.w[:, 0] * mean.to(x.dtype) + self.w[:, 1] * (var + 1e-5).sqrt().to(x.dtype)
        gate = self.gate(self.norm(z)).to(x.dtype)
        return x * per_channel(gate, self.rank)
