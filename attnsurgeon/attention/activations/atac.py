"""Attentional activation: each value is gated by the channels around it instead of by its sign.

    gate = sigmoid(batchnorm(W2 relu(batchnorm(W1 x))))
    y = x * gate

Dai et al., "Attention as Activation", ICPR 2020, https://arxiv.org/abs/2007.07729
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from attnsurgeon.attention.checks import hidden_width
from attnsurgeon.attention.identity import replacing
from attnsurgeon.attention.norms import ONE_VALUE, BatchNorm
from attnsurgeon.attention.pictures import Picture
from attnsurgeon.attention.registry import mechanism
from attnsurgeon.attention.shapes import CONV


def count(channels: int, reduction: int) -> int:
    """Returns the number of parameters."""
    m = hidden_width(channels, reduction)
    return 2 * channels * m + 2 * m + 2 * channels


@mechanism(
    "atac",
    kind="activation",
    ranks=(1, 2, 3),
    placement="late-activation",
    picture=Picture(
        ("both",), "the gate of each value", lambda seen: {"both": seen.last("sigmoid")}
    ),
    formula="2C(C//r) + 2(C//r) + 2C",
    count=count,
    identity=replacing(
        base=lambda replaced: nn.ReLU(),
        how="y = old(x) + g * (mechanism(x) - old(x)), learnable g = 0; old is the activation "
        "that was there, or ReLU where the mechanism stands alone",
    ),
    constraints=("C >= reduction",),
    deviations=(
        "reduction is 2, as in the authors' ImageNet network; their scripts have 4 by default",
        "no biases, a batch norm after both layers and no pooling, as in the authors' code; a "
        "copy in circulation has no norms and a reduction of 16",
        "ranks 1 and 3 are not the authors': the two layers see the channels of one position there "
        "too",
        ONE_VALUE,
    ),
    spatial=False,
)
class ATAC(nn.Module):
    """Replaces an activation by a gate that the channels of each position compute together.

    Args:
        channels: C.
        rank: 1, 2 or 3.
        reduction: r, by which the hidden layer is narrower.

    Shape:
        x (N, C, ...) -> (N, C, ...)
    """

    def __init__(self, channels: int, *, rank: int = 2, reduction: int = 2) -> None:
        super().__init__()
        m = hidden_width(channels, reduction)
        self.squeeze = CONV[rank](channels, m, 1, bias=False)
        self.squeeze_norm = BatchNorm(m)
        self.expand = CONV[rank](m, channels, 1, bias=False)
        self.expand_norm = BatchNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Returns `x` times the gate of each value."""
        hidden = F.relu(self.squeeze_norm(self.squeeze(x)))
        return x * self.expand_norm(self.expand(hidden)).sigmoid().to(x.dtype)
