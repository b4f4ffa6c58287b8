"""What the tests of training share: operated networks, steps, and what moved."""

from __future__ import annotations

import copy
import functools
from typing import Any

import torch
from torch import Tensor, nn

import attnsurgeon
from attnsurgeon.checks.verify import randomise_norms
from attnsurgeon.splicing.history import inserted

State = dict[str, Tensor]


def operated(
    name: str = "test_resnet", attn: str = "se", where: Any = "residual-branch", **loading: Any
) -> Any:
    """An operated network whose norms are not the identity."""
    return copy.deepcopy(_operated(name, attn, where, tuple(loading.items())))


@functools.cache
def _operated(name: str, attn: str, where: str, loading: tuple[tuple[str, Any], ...]) -> Any:
    model = attnsurgeon.load_model(name, **dict(loading))
    model = attnsurgeon.insert(model, attn, where).model
    randomise_norms(model)
    return model


def images(step: int, channels: int = 3) -> Tensor:
    return torch.randn(3, channels, 32, 48, generator=torch.Generator().manual_seed(step))


def backward(model: nn.Module, step: int) -> None:
    model.train()
    loss = model(images(step)).square().mean()
    assert 0 < loss < 1e6  # a network that says nothing would learn nothing
    loss.backward()


def steps(model: nn.Module, optimizer: Any, numbers: range) -> None:
    for step in numbers:
        optimizer.zero_grad()
        backward(model, step)
        optimizer.step()


def state(model: nn.Module) -> State:
    return copy.deepcopy(model.state_dict())


def moved(model: nn.Module, before: State) -> set[str]:
    after = model.state_dict()
    assert list(after) == list(before)
    return {name for name, value in after.items() if not torch.equal(value, before[name])}


def attention(model: nn.Module) -> set[str]:
    prefixes = tuple(f"{path}." for path, _ in inserted(model))
    return {name for name in model.state_dict() if name.startswith(prefixes)}
