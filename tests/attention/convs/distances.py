"""Positions of maps of any rank, one by one, for oracles of what compares two of them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

Place = tuple[int, ...]


def places(sides: Sequence[int]) -> list[Place]:
    """Returns all positions of a map, in order."""
    return list(itertools.product(*map(range, sides)))


def at(z: Tensor, place: Place) -> Tensor:
    """Returns the channels (C,) of (C, ...) at a position, zeros beyond the map."""
    inside = all(0 <= i < n for i, n in zip(place, z.shape[1:], strict=True))
    return z[(slice(None), *place)] if inside else torch.zeros(len(z), dtype=z.dtype)


def row(tables: Iterable[Tensor], here: Place, there: Place, beyond: int = 0) -> Tensor:
    """Returns the sum over axes of the rows of the distance.

    The row of the distance 0 is the middle one, or `beyond` rows behind it.
    """
    zipped = zip(tables, here, there, strict=True)
    rows = (table[len(table) // 2 + beyond + j - i] for table, i, j in zipped)
    return sum(rows, torch.zeros(()))


def looked_up(q: Tensor, keys: list[Tensor], values: list[Tensor]) -> Tensor:
    """Returns the sum of the values by a softmax of q . key / sqrt(d)."""
    scores = [math.exp((q @ k).item() / math.sqrt(len(q))) for k in keys]
    return sum((s * v for s, v in zip(scores, values, strict=True)), torch.zeros(())) / sum(scores)


def tile_means(z: Tensor, stride: Sequence[int]) -> Tensor:
    """Returns the mean of each tile of a map (C, ...), of which the last may be smaller."""
    sides = [-(-n // step) for n, step in zip(z.shape[1:], stride, strict=True)]
    made = torch.empty(len(z), *sides, dtype=z.dtype)
    for place in places(sides):
        tile = [slice(i * s, (i + 1) * s) for i, s in zip(place, stride, strict=True)]
        made[(slice(None), *place)] = z[(slice(None), *tile)].flatten(1).mean(1)
    return made


def pointwise(layer: Any, image: Tensor) -> Tensor:
    """Returns what a 1x1 convolution without bias makes of (C, ...)."""
    return torch.einsum("oc,c...->o...", layer.weight.flatten(1), image)
