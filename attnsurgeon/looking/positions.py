"""A row of tokens at a site -> the map that stands in it, and the tokens that are in no map."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from attnsurgeon.splicing.channels_first import sides_alike

_MAPS = ("spatial", "both", "fusion", "classes", "attention")


@dataclass(frozen=True)
class Row:
    """A row of tokens.

    Attributes:
        sides: of the map in it: (H, W); (L,) where that is not known.
        before, after: the numbers of tokens of no position.
    """

    sides: tuple[int, ...]
    before: int = 0
    after: int = 0

    def arranged(self, pictures: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Returns the pictures with their rows (..., L, 1) as maps; the others as `tokens`."""
        arranged: dict[str, Tensor] = {}
        for name, picture in pictures.items():
            if name not in _MAPS or picture.dim() < 3 or picture.shape[-1] != 1:
                arranged[name] = picture
                continue
            row = picture.squeeze(-1)
            end = row.shape[-1] - self.after
            arranged[name] = row[..., self.before : end].unflatten(-1, self.sides)
            if self.before or self.after:
                arranged["tokens"] = _around(row, self.before, end)
        return arranged


def _around(row: Tensor, before: int, end: int) -> Tensor:
    kept = [*range(before), *range(end, row.shape[-1])]
    return row[..., kept]


def row_at(value: Tensor, cut: Mapping[str, Any], beside: tuple[int, int]) -> Row | None:
    """Returns how tokens stand in what a module is given; None where that is a map.

    Args:
        value: (N, C, L, 1) where it is a row of tokens.
        cut: the record of the module.
        beside: the numbers of tokens of no position ahead of the map and behind it.
    """
    may_be_row = cut["layout"] in ("NLC", "NCL") and cut["rank"] == 2
    if not may_be_row or value.dim() != 4 or value.shape[3] != 1:
        return None
    length, sides = value.shape[2] - sum(beside), tuple(cut["resolution"])
    known = sides and length > 0 and sum(beside) == cut["beside"]
    now = sides_alike(sides, length) if known else None
    if now is None:
        return Row((value.shape[2],))  # of another number of tokens than any such map has
    return Row(now, *beside)
