"""The contract of the gates -> the same tests for the cases of another kind of mechanism."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import FunctionType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from attnsurgeon.attention.registry import Mechanism, mechanisms
from tests.attention import test_contract, test_portability
from tests.attention.cases import SIZES, Case, make


def contract(cases: Sequence[Case]) -> dict[str, Callable[..., None]]:
    """Returns every test that takes a case, by name, to be run with these cases instead."""
    each = pytest.mark.parametrize("case", cases, ids=str).mark
    tests = {}
    for module in (test_contract, test_portability):
        for name, test in vars(module).items():
            if name.startswith("test_") and "case" in inspect.signature(test).parameters:
                marks = [mark for mark in test.pytestmark if mark.args[:1] != ("case",)]
                assert len(marks) == len(test.pytestmark) - 1, f"{name} has no cases to replace"
                twin = FunctionType(test.__code__, test.__globals__, name)
                twin.pytestmark = [*marks, each]  # pyright: ignore[reportFunctionMemberAccess]
                tests[name] = twin
    return tests


@dataclass(frozen=True)
class Form(Case):
    """A mechanism at one rank with arguments of its own, on few channels."""

    args: tuple[tuple[str, Any], ...] = ()
    channels: int = 32

    def __str__(self) -> str:
        return "-".join([self.card.name, f"{self.rank}d", *(str(value) for _, value in self.args)])

    def build(self, init: str = "paper", *, channels: int | None = None) -> Any:
        channels = channels or self.channels
        return make(self.card.name, channels, rank=self.rank, init=init, **dict(self.args))

    def params(self, channels: int | None = None) -> int:
        return self.card.params(channels or self.channels, rank=self.rank, **dict(self.args))

    def input(self, batch: int = 2, size: tuple[int, ...] | None = None, **kwargs: Any) -> Tensor:
        return torch.randn(batch, self.channels, *(size or SIZES[self.rank]), **kwargs)


class Beside(nn.Module):
    """Two inputs as one: the channels of the first, and beside them those of the second.

    Args:
        inner: the mechanism of two inputs.
        channels: of the first input.
    """

    def __init__(self, inner: nn.Module, channels: int) -> None:
        super().__init__()
        self.inner = inner
        self.channels = channels

    def forward(self, both: Tensor) -> Tensor:
        """Returns what the mechanism makes of the two."""
        return self.inner(both[:, : self.channels], both[:, self.channels :])


@dataclass(frozen=True)
class Pair(Form):
    """A mechanism of two inputs, which lie beside each other in the input of a case."""

    second: int | None = None

    def build(self, init: str = "paper", *, channels: int | None = None) -> Any:
        return Beside(super().build(init, channels=channels), channels or self.channels)

    def input(self, batch: int = 2, size: tuple[int, ...] | None = None, **kwargs: Any) -> Tensor:
        total = self.channels + (self.second or self.channels)
        return torch.randn(batch, total, *(size or SIZES[self.rank]), **kwargs)

    def halves(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the two inputs."""
        return x[:, : self.channels], x[:, self.channels :]


def of_kind(kind: str) -> list[Mechanism]:
    """Returns the mechanisms of that kind."""
    return [card for card in mechanisms().values() if card.kind == kind]
