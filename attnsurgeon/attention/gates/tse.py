"""Tiled squeeze-and-excitation: SE with means over tiles instead of means over the whole map.

    gate = sigmoid(W2 relu(W1 mean over the tile of x))
    y = x * gate of the tile that a position lies in

Vosco et al., "Tiled Squeeze-and-Excite: Channel Attention With Local Spatial Context",
ICCV Workshops 2021, https://arxiv.org/abs/2107.02145
"""

from __future__ import annotations

import torch.fx
from torch import Tensor

from attnsurgeon.attention.gates import se
from attnsurgeon.attention.layout import tokens
from attnsurgeon.attention.pictures import multiplied
from attnsurgeon.attention.pooling import mean
from attnsurgeon.attention.registry import mechanism
from attnsurgeon.attention.resampling import along, eager, repeats, tiles
from attnsurgeon.errors import MechanismError

Tile = tuple[int | None, ...]


def per_axis(tile: Tile, rank: int) -> Tile:
    """Returns the tile's side on every axis; the first axes are whole where fewer are given.

    Rows are as wide as the map: a signal has no width, and 7 rows of it are 7 positions.
    """
    if rank == 1 and len(tile) == 2 and tile[1] is None:
        return tile[:1]
    if len(tile) > rank:
        raise MechanismError(
            f"tile={tile} has {len(tile)} sides and the map {rank} axes",
            f"give tile={(7, None)[:rank]}",
        )
    return (None,) * (rank - len(tile)) + tile


def covers(side: int | None, length: int) -> bool:
    """Says whether the tile is as long as the axis."""
    return side is None or (eager() and side >= length)


@torch.fx.wrap
def tile_means(x: Tensor, tile: Tile) -> Tensor:
    """Returns the mean of each tile (N, C, ...), one place a tile."""
    whole = tuple(axis for axis, side in enumerate(tile, 2) if covers(side, x.shape[axis]))
    z = mean(x, whole, keepdim=True) if whole else x
    for axis, side in reversed(list(enumerate(tile, 2))):
        if side is not None and axis not in whole:
            z = along(z, axis, tiles(x.shape[axis], side, x), like=x)
    return z


@torch.fx.wrap
def repeat(z: Tensor, tile: Tile, like: Tensor) -> Tensor:
    """Returns `z` with every place repeated over its tile; an axis that is whole broadcasts."""
    for axis, side in enumerate(tile, 2):
        if side is not None and not covers(side, like.shape[axis]):
            z = along(z, axis, repeats(like.shape[axis], side, z), like=like)
    return z


@mechanism(
    "tse",
    kind="gate",
    ranks=(1, 2, 3),
    bottleneck=("fc1",),
    placement="block-branch",
    picture=multiplied("both", how="the gate of each channel in each tile"),
    formula=se.FORMULA,
    count=se.count,
    identity=se.IDENTITY,
    constraints=("C >= reduction",),
    deviations=(
        "the parameters are those of SE, under the same names, so that SE's weights load here",
        "the tile is 7 rows of the full width, which the paper recommends; (None, 7) is 7 columns",
        "a tile that reaches beyond the border is averaged over the positions inside the map, as "
        "in the paper's listing",
        "a copy in circulation has a batch norm after the first layer, the paper's listing none",
        "ranks 1 and 3 are not the authors': 7 rows are 7 positions of a signal, and a tile covers "
        "the full depth unless it has three sides",
    ),
)
class TSE(se.Excitation):
    """Reweights each channel tile by tile, by gates computed from the means of the tile.

    Args:
        channels: C.
        rank: 1, 2 or 3.
        reduction: r, by which the hidden layer is narrower.
        bias: whether the two layers have biases.
        hidden: the hidden width itself, instead of C // reduction.
        tile: sides of a tile along the last axes of the map; None is the full side.

    Shape:
        x (N, C, ...) -> (N, C, ...)
    """

    def __init__(
        self,
        channels: int,
        *,
        rank: int = 2,
        reduction: int = 16,
        bias: bool = True,
        hidden: int | None = None,
        tile: tuple[int | None, ...] = (7, None),
    ) -> None:
        super().__init__(channels, reduction=reduction, bias=bias, hidden=hidden)
        self.tile = per_axis(tile, rank)

    def forward(self, x: Tensor) -> Tensor:
        """Returns `x` times the channel gates of its tiles."""
        squeezed = tokens(tile_means(x, self.tile))  # (N, ..., C), one place a tile
        gate = self.excite(squeezed).movedim(x.dim() - 1, 1)
        return x * repeat(gate, self.tile, x).to(x.dtype)

    def extra_repr(self) -> str:
        """Returns the tile, which no parameter shows."""
        return f"tile={self.tile}"
