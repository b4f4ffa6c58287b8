"""Squeeze-and-excitation: a two-layer bottleneck turns pooled channels into channel gates.

    gate = sigmoid(W2 relu(W1 mean(x)))
    y = x * gate

Hu et al., "Squeeze-and-Excitation Networks", CVPR 2018, https://arxiv.org/abs/1709.01507
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from attnsurgeon.attention.checks import hidden_width
from attnsurgeon.attention.identity import Gate, native
from attnsurgeon.attention.pictures import multiplied
from attnsurgeon.attention.pooling import Mean
from attnsurgeon.attention.registry import mechanism
from attnsurgeon.attention.shapes import per_channel


def count(channels: int, reduction: int, bias: bool, hidden: int | None) -> int:
    """Returns the number of parameters."""
    m = hidden or hidden_width(channels, reduction)
    return 2 * channels * m + bias * (m + channels)


FORMULA = "2C(C//r) + C//r + C; 2C(C//r) with bias=False"
IDENTITY = native("fc2", how="fc2 starts at zero and the gate is 2 * sigmoid, so it starts at 1")


class Excitation(nn.Module):
    """The two layers and the gate, whatever they are given.

    Args:
        channels, reduction, bias, hidden: as of `SE`.

    Shape:
        (..., C) -> (..., C)
    """

    def __init__(self, channels: int, *, reduction: int, bias: bool, hidden: int | None) -> None:
        super().__init__()
        m = hidden or hidden_width(channels, reduction)
        self.fc1 = nn.Linear(channels, m, bias=bias)
        self.fc2 = nn.Linear(m, channels, bias=bias)
        self.gate = Gate()

    def excite(self, squeezed: Tensor) -> Tensor:
        """Returns the gates."""
        return self.gate(self.fc2(F.relu(self.fc1(squeezed))))


@mechanism(
    "se",
    kind="gate",
    ranks=(1, 2, 3),
    bottleneck=("fc1",),
    placement="block-branch",
    picture=multiplied("channel", how="the gate of each channel"),
    formula=FORMULA,
    count=count,
    identity=IDENTITY,
    constraints=("C >= reduction",),
    deviations=(
        "biases as in the authors' Caffe networks; most PyTorch copies have none (bias=False)",
        "some libraries round C//r up to a multiple of 8; give hidden to have such a width",
    ),
    spatial=False,
)
class SE(Excitation):
    """Reweights each channel by a gate computed from the means of all channels.

    Args:
        channels: C.
        rank: 1, 2 or 3.
        reduction: r, by which the hidden layer is narrower.
        bias: whether the two layers have biases.
        hidden: the hidden width itself, instead of C // reduction.

    Shape:
        x (N, C, ...) -> (N, C, ...)
    """

    def __init__(
        self,
        channels: int,
        *,
        rank: int = 2,
        reduction: int = 16,
        bias: bool = True,
        hidden: int | None = None,
    ) -> None:
        super().__init__(channels, reduction=reduction, bias=bias, hidden=hidden)
        self.rank = rank
        self.pool = Mean(rank=rank)

    def forward(self, x: Tensor) -> Tensor:
        """Returns `x` times its channel gates."""
        gate = self.excite(self.pool(x))  # (N, C)
        return x * per_channel(gate, self.rank)
