"""Linked mechanisms under contract: a chain of three places, as one module."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from attnsurgeon.attention.linked.chain import Chain, Link, Linked
from attnsurgeon.attention.registry import create_part
from tests.attention.cases import SIZES, Part

PLACES = 3


@dataclass(frozen=True)
class Places(Part):
    """A linked mechanism at three places of one width, which are all there is of a network."""

    noise: ClassVar[float] = 1e-11  # that is all the gradient of an inert bias

    def at(self, place: int, channels: int) -> dict[str, Any]:
        """Returns the arguments at a place, as a plan finds them."""
        before = channels if place else None
        facts = {"rank": self.rank, "previous_channels": before}
        return self.card.args_at(SIZES[self.rank], dict(self.args), **facts)

    def part(self, place: int, init: str = "paper", *, channels: int | None = None) -> Linked:
        """Returns the mechanism as it is at a place."""
        channels = channels or self.channels
        args = self.at(place, channels)
        made = create_part(self.card.name, channels, rank=self.rank, init=init, **args)
        assert isinstance(made, Linked)
        return made

    def build(self, init: str = "paper", *, channels: int | None = None) -> Any:
        """Returns the three places; they are of one module where the mechanism is tied."""
        parts = [self.part(place, init, channels=channels) for place in range(PLACES)]
        if self.card.tied:
            parts = parts[:1] * PLACES
        chain = Chain()
        return nn.Sequential(*(Link(part, chain, place) for place, part in enumerate(parts)))

    def params(self, channels: int | None = None) -> int:
        channels = channels or self.channels
        given = [self.at(place, channels) for place in range(PLACES)]
        counts = [self.card.params(channels, rank=self.rank, **args) for args in given]
        return counts[0] if self.card.tied else sum(counts)

    def extra(self, channels: int | None = None) -> int:
        return PLACES if dict(self.args).get("inner") == "ge" else 0

    @property
    def spatial(self) -> bool:
        return dict(self.args).get("inner") == "cbam"
