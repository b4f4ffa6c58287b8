"""Heads under contract, as modules of one input: all that they look at lies side by side in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from attnsurgeon.attention.registry import create_part
from tests.attention.cases import SIZES, Part

CLASSES = 7
STAGES = (5, 11)


class Apart(nn.Module):
    """Hands over slices of the channels: the scores (N, classes), at the first position, and maps.

    Args:
        inner: the head, of what `takes` names in that order.
        takes: "scores", or how many channels a map has.
    """

    def __init__(self, inner: nn.Module, takes: tuple[str | int, ...]) -> None:
        super().__init__()
        self.inner = inner
        self.takes = takes

    def forward(self, x: Tensor) -> Tensor:
        """Returns what the head makes of it."""
        start, found = CLASSES, []
        for wanted in self.takes:
            if isinstance(wanted, int):
                found.append(x[:, start : start + wanted])
                start += wanted
            else:
                found.append(scores(x))
        return self.inner(*found)


def scores(x: Tensor) -> Tensor:
    """Returns the network's own scores, which lie before the maps."""
    return x.flatten(2)[:, :CLASSES, 0]


@dataclass(frozen=True)
class Head(Part):
    """A head as a network has it, beside the classifier that was there."""

    def given(self) -> dict[str, Any]:
        """Returns the arguments, as a plan finds them."""
        facts = {"classes": CLASSES, "stages": STAGES}
        return self.card.args_at(SIZES[self.rank], dict(self.args), rank=self.rank, **facts)

    def build(self, init: str = "paper", *, channels: int | None = None) -> Any:
        channels = channels or self.channels
        inner = create_part(self.card.name, channels, rank=self.rank, init=init, **self.given())
        beside = self.card.within is not None and init == "identity"
        if "logits" in self.card.inputs({}):
            return Apart(inner, ("scores", *STAGES))
        return Apart(inner, (channels, "scores") if beside else (channels,))

    def params(self, channels: int | None = None) -> int:
        return self.card.params(channels or self.channels, rank=self.rank, **self.given())

    def input(self, batch: int = 2, size: tuple[int, ...] | None = None, **kwargs: Any) -> Tensor:
        return torch.randn(batch, CLASSES + self.channels, *(size or SIZES[self.rank]), **kwargs)

    def before(self, x: Tensor) -> Tensor:
        return scores(x)

    def keeps_layout(self, x: Tensor) -> bool:
        return False  # scores have none
