"""rank (2 for images, 3 for clips and volumes) -> axes, layers and broadcast views."""

from __future__ import annotations

from torch import Tensor, nn

CONV: dict[int, type[nn.Conv2d] | type[nn.Conv3d]] = {2: nn.Conv2d, 3: nn.Conv3d}


def positions(rank: int) -> tuple[int, ...]:
    """Returns the axes of an (N, C, ...) tensor that run over positions."""
    return tuple(range(2, 2 + rank))


def per_channel(z: Tensor, rank: int) -> Tensor:
    """Returns `z` (N, C) as a view that broadcasts over the positions of an (N, C, ...) tensor."""
    return z[:, :, None, None] if rank == 2 else z[:, :, None, None, None]
