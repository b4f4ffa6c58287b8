"""Linked mechanisms under contract: a chain of three places, as one module."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from attnsurgeon.attention.linked.chain import Chain, Link, Linked
from attnsurgeon.attention.registry import create_part
from tests.attention.cases import SIZES
from tests.attention.whole import Form, of_kind

PLACES = 3
# Further forms of a mechanism, for images only.
FORMS = {"dca": [(("inner", "cbam"),), (("inner", "ge"),)]}


@dataclass(frozen=True)
class Places(Form):
    """A linked mechanism at three places of one width, which are all there is of a network."""

    def given(self, place: int, channels: int) -> dict[str, Any]:
        """Returns the arguments at a place, as a plan finds them."""
        before = channels if place else None
        return self.card.args_at(SIZES[self.rank], dict(self.args), previous_channels=before)

    def part(self, place: int, init: str = "paper", *, channels: int | None = None) -> Linked:
        """Returns the mechanism as it is at a place."""
        channels = channels or self.channels
        args = self.given(place, channels)
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
        given = [self.given(place, channels) for place in range(PLACES)]
        counts = [self.card.params(channels, rank=self.rank, **args) for args in given]
        return counts[0] if self.card.tied else sum(counts)


CARDS = of_kind("linked")
CASES = [Places(card, rank) for card in CARDS for rank in card.ranks]
CASES += [Places(card, 2, args) for card in CARDS for args in FORMS.get(card.name, [])]
