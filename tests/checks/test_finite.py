"""Where there is NaN or Inf nothing can be compared, and a verification says so."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import attnsurgeon
from attnsurgeon.report.checks import sentences
from attnsurgeon.report.record import verification_record

SITE = {"site": "conv"}
SIZE = (3, 20, 28)


class Net(nn.Module):
    """Takes a logarithm where it is told to, of numbers of both signs."""

    def __init__(self, *, log: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.bn = nn.BatchNorm2d(8)
        self.out = nn.Conv2d(8, 4, 3, padding=1)
        self.log = log
        self.register_buffer("mask", torch.tensor([0.0, float("-inf")]))

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn(self.conv(x))
        x = self.out(x.log() if self.log else x).mean((2, 3))
        return x + self.mask[0]


def verified(model: nn.Module) -> attnsurgeon.checks.verify.Verification:
    return attnsurgeon.insert(model, "eca", SITE, input_size=SIZE).verify(full=False)


def test_a_network_of_numbers_is_verified_and_a_mask_of_infinities_is_no_fault():
    checked = verified(Net())
    assert checked.ok
    assert checked.identity
    assert checked.not_finite == ()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("conv.weight", float("nan")),
        ("out.bias", float("inf")),
        ("bn.weight", float("nan")),
        ("bn.running_var", float("nan")),
    ],
)
def test_a_weight_that_is_no_number_is_named(name, value):
    """Also one of a norm, which the verification's copy replaces by random numbers."""
    model = Net()
    model.state_dict()[name].view(-1)[1] = value
    checked = verified(model)
    assert checked.not_finite[0] == name
    assert not checked.identity
    assert not checked.ok
    assert f"nothing can be verified: there is NaN or Inf in {name}" in checked.problems[0]


def test_outputs_that_are_no_numbers_are_named_with_the_module_behind_which_they_began():
    checked = verified(Net(log=True))
    assert checked.not_finite == ("the outputs, first behind out",)
    assert not checked.ok


def test_no_tick_is_shown_where_nothing_was_compared():
    shown = list(sentences(verification_record(verified(Net(log=True))), "x"))
    assert shown[0][0] == "bad"
    assert "NaN or Inf in the outputs, first behind out" in shown[0][1]
    assert not any("bit-equal" in text for _, text in shown)
