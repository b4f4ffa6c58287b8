"""Global second-order pooling: covariances between channels, row by row, become channel gates.

    u = relu(batchnorm(W1 relu(x))), d channels
    S = cov(u), d x d, over the positions
    gate = sigmoid(W3 [W2_i . batchnorm(S_i) for every row i])
    y = x * gate

Gao et al., "Global Second-Order Pooling Convolutional Networks", CVPR 2019,
https://arxiv.org/abs/1811.12006
"""

from __future__ import annotations

import torch
import torch.fx
from torch import Tensor, nn
from torch.nn import functional as F

from attnsurgeon.attention.identity import Gate, native
from attnsurgeon.attention.norms import ONE_VALUE, BatchNorm
from attnsurgeon.attention.pictures import multiplied
from attnsurgeon.attention.registry import mechanism
from attnsurgeon.attention.shapes import CONV, per_channel

ROWS = 4  # outputs of the convolution over each row
FIRST_STAGE = 256  # up to so many channels the authors' code takes every second position


@torch.fx.wrap
def covariance(u: Tensor) -> Tensor:
    """Returns (N, d, d), over positions; finite in float16, where squares overflow."""
    u = u.flatten(2)
    deviation = u - u.mean(2, keepdim=True)
    scale = 1 / u.shape[2]
    if u.dtype != torch.float16:
        return (deviation @ deviation.transpose(-2, -1)) * scale
    wide, limit = deviation.float(), torch.finfo(u.dtype).max
    return ((wide @ wide.transpose(-2, -1)) * scale).clamp(-limit, limit).to(u.dtype)


def count(channels: int, hidden: int) -> int:
    """Returns the number of parameters."""
    reduce = channels * hidden + hidden + 2 * hidden
    rows = 2 * hidden + ROWS * hidden * hidden + ROWS * hidden
    return reduce + rows + ROWS * hidden * channels + channels


@mechanism(
    "gsop",
    kind="gate",
    ranks=(1, 2, 3),
    placement="stage-branch",
    picture=multiplied("channel", how="the gate of each channel"),
    formula="Cd + d + 2d + 2d + 4d^2 + 4d + 4dC + C",
    count=count,
    identity=native("expand", how="the last layer starts at zero and the gate is 2 * sigmoid"),
    deviations=(
        "as in the authors' code: biases in all layers, no activation between the last two, "
        "covariances that are centred and divided by the number of positions",
        "up to 256 channels, the authors' first stage, every second position is taken; stride=1 "
        "takes all, also there",
        "the authors' networks also keep the resolution in the last stage, which changes the "
        "network and not the gate; load_model(..., output_stride=16) does so in timm's networks, "
        "with dilation",
        "the authors' spatial branch and its fusions are not built; their networks do without",
        "the bias straight before the batch norm is kept to have the authors' parameters; it "
        "cannot learn while the norm uses batch statistics",
        "ranks 1 and 3 are not the authors': the covariance runs over all positions",
        ONE_VALUE,
    ),
    unmoved=("reduce.bias",),
    limits=(
        "pruning: the kernel of the layer `rows` is as long as the covariance is wide, and a "
        "pruner narrows channels, not kernels; let it ignore this module",
    ),
)
class GSoP(nn.Module):
    """Reweights each channel by a gate computed from how the channels vary together.

    Args:
        channels: C.
        rank: 1, 2 or 3.
        hidden: d, the number of channels whose covariances are taken.
        stride: every how many positions; None for the authors' choice by C.

    Shape:
        x (N, C, ...) -> (N, C, ...)
    """

    def __init__(
        self, channels: int, *, rank: int = 2, hidden: int = 128, stride: int | None = None
    ) -> None:
        super().__init__()
        self.rank = rank
        stride = stride or (2 if channels <= FIRST_STAGE else 1)
        self.thin = (slice(None), slice(None), *(slice(None, None, stride) for _ in range(rank)))
        self.reduce = CONV[rank](channels, hidden, 1)
        self.norm = BatchNorm(hidden)
        self.row_norm = BatchNorm(hidden)
        self.rows = nn.Conv1d(hidden, ROWS * hidden, hidden, groups=hidden)
        self.expand = nn.Linear(ROWS * hidden, channels)
        self.gate = Gate()
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Starts as the authors' networks do."""
        for layer in (self.reduce, self.rows, self.expand):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Returns `x` times its channel gates."""
        reduced = F.relu(self.norm(self.reduce(F.relu(x[self.thin]))))  # (N, d, ...)
        rows = self.rows(self.row_norm(covariance(reduced)))  # (N, 4d, 1)
        gate = self.gate(self.expand(rows.squeeze(2)))
        return x * per_channel(gate, self.rank)
