"""rank (1 for signals, 2 for images, 3 for clips and volumes) -> axes, layers, broadcast views."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor, nn

from attnsurgeon.attention.gradients import jit_traces

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


def freedom(count: int) -> int:
    """Returns one less than a number of values; 1 for a single value, whose variance is 0 so.

    In whole numbers: `max` would be worked out once where torch.jit traces, for every size.
    """
    return count - 1 + 1 // count


def per_channel(z: Tensor, rank: int) -> Tensor:
    """Returns `z` (N, C) as a view that broadcasts over the positions of an (N, C, ...) tensor."""
    return z[(slice(None), slice(None), *[None] * rank)]


def unflatten(x: Tensor, axis: int, sizes: tuple[int, ...] | torch.Size) -> Tensor:
    """Returns `x` with one axis split into several; traced, in words that old formats know."""
    if not jit_traces():
        return x.unflatten(axis, sizes)
    axis = axis % x.dim()
    return x.reshape(*x.shape[:axis], *sizes, *x.shape[axis + 1 :])


def shuffle(x: Tensor, groups: int) -> Tensor:
    """Returns `x` (N, C, ...) with the channels of all groups in turn; traced, likewise."""
    if not jit_traces():
        return torch.channel_shuffle(x, groups)
    return unflatten(x, 1, (groups, -1)).transpose(1, 2).flatten(1, 2)
