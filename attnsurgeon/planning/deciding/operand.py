"""Node + mechanism -> the value that attention is to work on: its layout, its tokens, its map."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import fx, nn

from attnsurgeon.attention.pooling import leave_out
from attnsurgeon.attention.registry import Mechanism
from attnsurgeon.recording.record import Traced
from attnsurgeon.sites.layouts import layout_of
from attnsurgeon.sites.site import size_in
from attnsurgeon.sites.tokens import Tokens, is_line, map_is_used, tokens_at

_SPATIAL_RANK = {"NCHW": 2, "NHWC": 2, "NCDHW": 3, "NDHWC": 3, "NLC": 2, "NCL": 2}


class Impossible(Exception):
    """A site cannot be operated; the text is the reason."""


@dataclass(frozen=True)
class Value:
    """A value that attention works on.

    Attributes:
        node: of the record.
        layout: its axes, as "NCHW" or "NLC".
        tokens: how tokens stand in a map, where it is known.
        as_map: tokens are brought into that map.
        line: a value (N, C, L) is a map of rank 1, and no row of tokens.
    """

    node: fx.Node
    layout: str
    tokens: Tokens | None = None
    as_map: bool = False
    line: bool = False

    @property
    def channels(self) -> int:
        """C."""
        return self.node.meta["shape"][self.layout.index("C")]

    @property
    def size(self) -> tuple[int, ...]:
        """The sides of what attention sees."""
        if self.as_map and self.tokens is not None:
            return self.tokens.sides
        return size_in(self.layout, self.node.meta["shape"])

    @property
    def rank(self) -> int:
        """How many sides a map of it has."""
        if self.as_map and self.tokens is not None:
            return len(self.tokens.sides)
        return 1 if self.line else _SPATIAL_RANK[self.layout]


def value_at(node: fx.Node, card: Mechanism | None, traced: Traced) -> Value:
    """Returns the value that a mechanism, or any (None), would work on at a node.

    Raises:
        Impossible: it has no known layout, or none that the mechanism works on.
    """
    layout, why = layout_of(node, traced.batch)
    if layout is None:
        raise Impossible(why)
    if is_line(node, layout):
        return _line(node, layout, card)
    tokens = tokens_at(node, layout)
    if layout not in ("NC", "NLC", "NCL"):
        return Value(node, layout)
    name = card.name if card is not None else "it"
    if layout == "NC":
        raise Impossible(f"{name} needs a map of positions, and here the layout is {layout}")
    if card is None or not card.spatial:
        return Value(node, layout, tokens)
    if tokens is None:
        raise Impossible(
            f"{name} needs a map of positions, and how the tokens here ({layout}) stand in one "
            "is not known"
        )
    if len(tokens.sides) not in card.ranks:
        why = f" {card.rank_reason}" if card.rank_reason else ""
        raise Impossible(f"{name} is not for maps of rank {len(tokens.sides)}{why}")
    return Value(node, layout, tokens, as_map=True)


def _line(node: fx.Node, layout: str, card: Mechanism | None) -> Value:
    """Returns the map of rank 1 that a mechanism is to work on."""
    if card is not None and 1 not in card.ranks:
        raise Impossible(f"{card.name} is not for signals (N, C, L) {card.rank_reason}".rstrip())
    return Value(node, layout, line=True)


def beside_tokens(
    value: Value, card: Mechanism, part: nn.Module, inserted: bool, traced: Traced
) -> Value:
    """Decides what becomes of tokens of no position: gated, too, or passed by."""
    tokens = value.tokens
    if tokens is None or not tokens.beside:
        return value
    if not value.as_map and leave_out(part, tokens.before, tokens.after):
        return value
    if not inserted:  # what takes the place of something does so for all tokens
        if value.as_map:
            raise Impossible(
                f"{card.name} works on a map, and would leave tokens of no position ("
                f"{tokens.beside}: class, registers) without what it takes the place of"
            )
        return value
    if not map_is_used(value.node, traced):
        raise Impossible(
            f"from here on only tokens of no position ({tokens.beside}: class, registers) are "
            f"used, and {card.name} works on the others"
        )
    return replace(value, as_map=True)
