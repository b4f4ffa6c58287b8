"""A row of tokens at a site -> the map that stands in it, and the tokens that are in no map."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from attnsurgeon.attention.pooling import Pool
from attnsurgeon.recording.input_records import recorded_form
from attnsurgeon.sites.analysis import analyse
from attnsurgeon.splicing.history import history

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


def row_at(
    network: nn.Module, part: nn.Module, cut: Mapping[str, Any], value: Tensor
) -> Row | None:
    """Returns how tokens stand in the map of one column that a module is given; None of a map.

    Args:
        network: that was operated.
        part: the inserted module.
        cut: its record.
        value: what it is given, (N, C, L, 1) where it is a row of tokens.
    """
    row = cut["layout"] in ("NLC", "NCL") and cut["rank"] == 2
    if not row or value.dim() != 4 or value.shape[3] != 1:
        return None
    length, sides = value.shape[2], tuple(cut["resolution"])
    before, after = _beside(network, part, cut)
    scale = ((length - before - after) / math.prod(sides)) ** (1 / len(sides)) if sides else 0
    now = tuple(round(side * scale) for side in sides)
    same = all(abs(n - side * scale) < 1e-6 for n, side in zip(now, sides, strict=True))
    if not sides or not same or math.prod(now) != length - before - after:
        return Row((length,))  # of another number of tokens than any map of these proportions
    return Row(now, before, after)


def _beside(network: nn.Module, part: nn.Module, cut: Mapping[str, Any]) -> tuple[int, int]:
    """The numbers of tokens of no position ahead of the map and behind it."""
    if not cut["beside"]:
        return 0, 0
    pools = [m.beside for m in part.modules() if isinstance(m, Pool) and any(m.beside)]
    if pools:
        return pools[0]
    # A record has their number alone: where they stand, the network says.
    survey = analyse(network, example=recorded_form(history(network)[-1]))
    found = [site.beside for site in survey.sites if site.path == cut["path"]]
    return found[0] if found and sum(found[0]) == cut["beside"] else (0, 0)
