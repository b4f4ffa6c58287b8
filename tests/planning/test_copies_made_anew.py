"""Modules whose copies are made anew (einops' layers say only their pattern) take no attention."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import attnsurgeon
from attnsurgeon.planning.cutting.modules import forgets
from tests.surgery import ready

SIZE = (3, 12, 10)


class Turn(nn.Module):
    """An activation that remembers nothing but its name."""

    def __init__(self, name: str = "turn") -> None:
        super().__init__()
        self.name = name

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x)

    def __getstate__(self) -> Any:
        return {"name": self.name}

    def __setstate__(self, state: Any) -> None:
        Turn.__init__(self, **state)


class Whole(Turn):
    """The twin that keeps all it has."""

    def __getstate__(self) -> Any:
        return self.__dict__

    def __setstate__(self, state: Any) -> None:
        self.__dict__ = state


def net(kind: type[nn.Module]) -> nn.Module:
    return ready(nn.Sequential(nn.Conv2d(3, 8, 3), kind(), nn.BatchNorm2d(8), nn.ReLU()))


@pytest.mark.parametrize(("kind", "host"), [(Turn, "2"), (Whole, "1")])
def test_attention_behind_one_is_in_every_copy(kind, host):
    operation = attnsurgeon.insert(net(kind), "eca", {"name": "1"}, input_size=SIZE)
    assert [cut.place.host for cut in operation.plan] == [host]
    assert operation.verify(full=False).identity
    assert "attn" in dict(copy.deepcopy(operation.model)[int(host)].named_children())


@pytest.mark.parametrize(("kind", "host"), [(Turn, False), (Whole, True)])
def test_only_one_that_keeps_its_children_is_the_host(kind, host):
    model = net(kind)
    assert forgets(model[1]) is not host
    model[1].attn = nn.Identity()
    assert hasattr(copy.deepcopy(model)[1], "attn") is host
    assert hasattr(pickle.loads(pickle.dumps(model))[1], "attn") is host


def test_an_ordinary_module_is_no_such_one():
    assert not forgets(nn.ReLU())
    assert not forgets(nn.MultiheadAttention(8, 2))
