"""Effective squeeze-and-excitation: one layer of full width, so that no channel is squeezed away.

    gate = hardsigmoid(W mean(x) + b), hardsigmoid(z) = min(max(z + 3, 0), 6) / 6
    y = x * gate

Lee and Park, "CenterMask: Real-Time Anchor-Free Instance Segmentation", CVPR 2020,
https://arxiv.org/abs/1911.06667
"""

from __future__ import annotations

from torch import Tensor, nn

from attnsurgeon.attention.identity import HardGate, native
from attnsurgeon.attention.pictures import multiplied
from attnsurgeon.attention.pooling import Mean
from attnsurgeon.attention.registry import mechanism
from attnsurgeon.attention.shapes import per_channel


@mechanism(
    "ese",
    kind="gate",
    ranks=(1, 2, 3),
    placement="block-branch",
    picture=multiplied("channel", how="the gate of each channel"),
    formula="C^2 + C",
    count=lambda channels: channels * channels + channels,
    identity=native("fc", how="fc starts at zero and the gate is 2 * hardsigmoid"),
    deviations=(
        "fc has a bias, as in the authors' code",
        "the authors have it in every block of a VoVNetV2, behind the 1x1 convolution that joins "
        "the block's layers, and timm in the last block of each stage alone",
    ),
    spatial=False,
)
class ESE(nn.Module):
    """Reweights each channel by a gate computed in one step from the means of all channels.

    Args:
        channels: C.
        rank: 1, 2 or 3.

    Shape:
        x (N, C, ...) -> (N, C, ...)
    """

    def __init__(self, channels: int, *, rank: int = 2) -> None:
        super().__init__()
        self.rank = rank
        self.pool = Mean(rank=rank)
        self.fc = nn.Linear(channels, channels)
        self.gate = HardGate()

    def forward(self, x: Tensor) -> Tensor:
        """Returns `x` times its channel gates."""
        gate = self.gate(self.fc(self.pool(x)))  # (N, C)
        return x * per_channel(gate, self.rank)
