"""The convolutions that mechanisms replace or work in: one case for each mechanism and rank."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from attnsurgeon.attention.registry import Mechanism, create_attention, create_part, mechanisms
from attnsurgeon.attention.shapes import CONV

CHANNELS = 16
SIZES = {2: (7, 5), 3: (3, 7, 5)}
PLAIN: dict[str, Any] = {"padding": 1, "bias": False}
# What a convolution may be like otherwise than a 3x3 one that keeps channels and size.
FORMS: dict[str, dict[str, Any]] = {
    "plain": {},
    "stride": {"stride": 2},
    "dilation": {"dilation": 2, "padding": 2},
    "groups": {"groups": 4},
    "wider": {"out_channels": 32},
    "narrower": {"in_channels": 32},
    "bias": {"bias": True},
    "valid": {"padding": 0},
    "same": {"padding": "same"},
    "five": {"kernel_size": 5, "padding": 2},
    "reflect": {"padding_mode": "reflect"},
}


@dataclass(frozen=True)
class Case:
    """One mechanism at one rank, in one of its forms."""

    card: Mechanism
    rank: int
    form: str
    args: Mapping[str, Any]

    @property
    def name(self) -> str:
        return "-".join(filter(None, (self.card.name, f"{self.rank}d", self.form)))

    def conv(self, **form: Any) -> Any:
        shape = {"in_channels": CHANNELS, "out_channels": CHANNELS, "kernel_size": 3}
        return CONV[self.rank](**{**shape, **PLAIN, **form})

    def build(self, init: str = "paper", *, conv: nn.Module | None = None) -> Any:
        """Returns the mechanism that stands alone."""
        conv = self.conv() if conv is None else conv
        return create_attention(self.card.name, conv=conv, init=init, **self.args)

    def part(self, init: str = "paper", *, conv: nn.Module | None = None) -> Any:
        """Returns the mechanism as a network has it."""
        conv = self.conv() if conv is None else conv
        return create_part(self.card.name, conv, init=init, **self.args)

    def params(self, conv: nn.Module | None = None) -> int:
        return self.card.params(self.conv() if conv is None else conv, **self.args)

    def input(
        self,
        batch: int = 2,
        size: tuple[int, ...] | None = None,
        *,
        channels: int = CHANNELS,
        **kwargs: Any,
    ) -> Tensor:
        return torch.randn(batch, channels, *(size or SIZES[self.rank]), **kwargs)


def cases(kind: str, **forms: dict[str, dict[str, Any]]) -> list[Case]:
    """Returns the cases of a kind; `forms` are arguments of a mechanism by the form they make.

    The first form is a case at every rank, the others at the lowest.
    """
    made = []
    for card in mechanisms().values():
        if card.kind == kind:
            first, *others = forms.get(card.name, {"": {}}).items()
            made += [Case(card, rank, *first) for rank in card.ranks]
            made += [Case(card, min(card.ranks), *other) for other in others]
    return made


def each(cases: list[Case]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", cases, ids=lambda case: case.name)
