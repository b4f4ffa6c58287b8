"""rank (1 for signals, 2 for images, 3 for clips and volumes) -> axes, layers, broadcast views."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from torch import Tensor, nn

Conv: TypeAlias = nn.Conv1d | nn.Conv2d | nn.Conv3d
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
CONV: dict[int, Callable[..., Conv]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


def positions(rank: int) -> tuple[int, ...]:
    """Returns the axes of an (N, C, ...) tensor that run over positions."""
    return tuple(range(2, 2 + rank))


def extent(x: Tensor, axes: tuple[int, ...]) -> int:
    """Returns how many values the axes run over."""
    count = 1
    for axis in axes:  # math.prod over a generator stops torch.compile
        count = count * x.shape[axis]
    return count


def per_channel(z: Tensor, rank: int) -> Tensor:
    """Returns `z` (N, C) as a view that broadcasts over the positions of an (N, C, ...) tensor."""
    return z[(slice(None), slice(None), *[None] * rank)]
