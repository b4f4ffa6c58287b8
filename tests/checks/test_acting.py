"""Whether inserted attention acts at all, once its parameters are random."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import attnsurgeon


class Unused(nn.Module):
    """Attention that has a parameter and hands its input on."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Returns x."""
        return x + 0 * self.weight.sum()


class InTraining(Unused):
    """Attention that acts in training only."""

    def forward(self, x: Tensor) -> Tensor:
        """Returns x, while training times its gates."""
        return x * (1 + self.weight.reshape(1, -1, 1, 1)) if self.training else x


@pytest.mark.parametrize(
    ("attn", "acts"), [("se", True), ("ba2m", True), (InTraining, True), (Unused, False)]
)
def test_attention_acts_in_evaluation_or_in_training_or_not_at_all(attn, acts):
    operation = attnsurgeon.insert(attnsurgeon.load_model("test_resnet"), attn, "residual-branch")
    still = operation.verify().still
    assert (still == ()) is acts
    if not acts:
        assert len(still) == len(list(operation.plan))
