"""Channels first <-> channels last, without a copy where none is needed."""

from __future__ import annotations

import torch
from torch import Tensor

LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


def channels_last(z: Tensor) -> Tensor:
    """Returns `z` (N, C, ...) with the channels of a position side by side in memory.

    torch has no memory format of that name for signals.
    """
    if z.dim() in LAST:
        return z.contiguous(memory_format=LAST[z.dim()])
    return z.movedim(1, -1).contiguous().movedim(-1, 1)


def tokens(x: Tensor) -> Tensor:
    """Returns `x` (N, C, ...) as a view (N, ..., C)."""
    return x.movedim(1, x.dim() - 1)


def untoken(z: Tensor, like: Tensor) -> Tensor:
    """Returns `z` (N, ..., C) as (N, C, ...), with the channels of `like` first or last in memory.

    A copy is made for a network in the ordinary layout, whose views would not take another one.
    """
    z = z.movedim(z.dim() - 1, 1)
    return channels_last(z) if like.stride(1) == 1 and like.shape[1] > 1 else z.contiguous()
