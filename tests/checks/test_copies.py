"""A copy that computes something else is a fault of attention only where attention made it one."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import resnet18
from torchvision.models.feature_extraction import create_feature_extractor

import attnsurgeon
from attnsurgeon.checks import learning
from tests.cli.tiny import Net

SIZE = (3, 40, 24)


class Forgetful(Net):
    """Whose deep copies forget a scale, with attention or without."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = 2.0

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.scale

    def __deepcopy__(self, memo: dict[int, Any]) -> Forgetful:
        made = type(self).__new__(type(self))
        memo[id(self)] = made
        made.__dict__ = copy.deepcopy(self.__dict__, memo)
        made.__dict__["scale"] = self.scale * 1.5
        return made


class Unpickled(Net):
    """Which cannot be pickled."""

    def __init__(self) -> None:
        super().__init__()
        self.secret = lambda: 1


def verified(net: nn.Module, **how: Any) -> Any:
    return attnsurgeon.insert(net.eval(), "eca", "residual-branch", **how).verify()


def test_copies_that_agree_are_said_to():
    found = verified(Net(), input_size=SIZE)
    assert found.round_trip is True
    assert not any("deepcopy" in note or "pickle" in note for note in found.notes)


def test_a_network_whose_own_copies_differ_is_to_blame_itself():
    found = verified(Forgetful(), input_size=SIZE)
    assert (found.problems, found.round_trip) == ((), None)
    assert (
        "deepcopy makes a copy that computes something else; also without attention" in found.notes
    )


def test_a_network_that_cannot_be_pickled_is_to_blame_itself():
    found = verified(Unpickled(), input_size=SIZE)
    assert (found.problems, found.round_trip) == ((), None)
    (note,) = (note for note in found.notes if "pickle" in note)
    assert note.startswith("pickle refuses the network: ")
    assert note.endswith("; also without attention")


@pytest.mark.slow
def test_a_feature_extractor_of_torchvision_is_no_fault_of_attention():
    net = create_feature_extractor(resnet18(), ["layer1", "layer2"])
    found = verified(net)
    assert (found.problems, found.round_trip) == ((), None)
    assert any(note.endswith("also without attention") for note in found.notes)


def test_copies_that_only_attention_spoils_are_a_problem(monkeypatch):
    pickled = learning._pickled

    def spoiled(model: nn.Module) -> nn.Module:
        made = pickled(model)
        for path, module in made.named_modules():
            if path.endswith("attn"):
                module.forward = torch.zeros_like  # type: ignore[method-assign]
        return made

    monkeypatch.setattr(learning, "_pickled", spoiled)
    found = verified(Net(), input_size=SIZE)
    assert found.round_trip is False
    assert found.problems == ("a copy (deepcopy, pickle) fails or computes something else",)
    assert (
        "pickle makes a copy that computes something else; without attention it does not"
        in found.notes
    )
