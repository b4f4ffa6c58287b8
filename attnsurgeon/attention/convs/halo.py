"""Halo attention: each block of positions attends to itself and to a halo around it.

    w_ij = softmax over j in the block of i and its halo of q_i . (k_j + r_(j - i)) / sqrt(d),
           r_(j - i) a row for each axis, added; k = v = 0 beyond the map
    y_i = sum over j of w_ij v_j, side by side for all heads

Vaswani et al., "Scaling Local Self-Attention for Parameter Efficient Visual Backbones", CVPR 2021,
https://arxiv.org/abs/2103.12731
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.fx
from torch import Tensor, nn
from torch.nn import functional as F

from attnsurgeon.attention.convs.geometry import Conv
from attnsurgeon.attention.convs.local import everywhere, tile_means
from attnsurgeon.attention.convs.relative import (
    attention,
    gathered,
    heads_first,
    heads_joined,
    skewed,
)
from attnsurgeon.attention.identity import replacing
from attnsurgeon.attention.kernels import kernel_along
from attnsurgeon.attention.partition import heads_of
from attnsurgeon.attention.pictures import Picture, Seen, index_of
from attnsurgeon.attention.registry import mechanism
from attnsurgeon.attention.shapes import CONV, unflatten

torch.fx.wrap("tile_means")
Sides = tuple[int, ...]


def blocks(x: Tensor, sides: Sides, margins: Sides) -> Tensor:
    """Returns (M, B, ..., side + 2 margin, ..., c): the blocks of a map (M, ..., c) with a margin.

    What lies beyond the map counts as zeros, also where it ends within the last block.
    """
    rank = len(sides)
    for axis in reversed(range(rank)):
        x = _along(x, axis + 1, sides[axis], margins[axis])
    return x.permute(0, *range(1, 2 * rank, 2), *range(2, 2 * rank + 1, 2), 2 * rank + 1)


def _along(x: Tensor, axis: int, side: int, margin: int) -> Tensor:
    """Returns `x` with one axis as (B, side + 2 margin)."""
    length = x.shape[axis]
    number = (length + side - 1) // side
    window = side + 2 * margin
    pieces = (window + side - 1) // side  # of the padded axis, the last of a window not whole
    after = (number + pieces - 1) * side - margin - length
    x = F.pad(x, [0, 0] * (x.dim() - 1 - axis) + [margin, after])
    x = unflatten(x, axis, (-1, side))
    if pieces == 1:
        return x
    widths = [min(side, window - piece * side) for piece in range(pieces)]
    before = (slice(None),) * axis
    parts = [x[(*before, slice(i, i + number), slice(w))] for i, w in enumerate(widths)]
    return torch.cat(parts, axis + 1)


def whole(z: Tensor, sides: Sides, like: Tensor, heads: int) -> Tensor:
    """Returns the map (N, C, ...), of the size of `like`, that blocks (M, B, ..., side, ..., c)
    make; `sides` are theirs.
    """
    rank = len(sides)
    order = [axis for pair in zip(range(1, rank + 1), range(rank + 1, 2 * rank + 1), strict=True)
             for axis in pair]  # fmt: skip
    z = z.permute(0, *order, 2 * rank + 1)
    for axis in range(1, rank + 1):
        z = z.flatten(axis, axis + 1)
    if not torch.compiler.is_compiling():
        z = z[(slice(None), *(slice(n) for n in like.shape[2:]))]
    else:  # of which torch.export knows the size, as of no slice
        lacking = [n - side for n, side in zip(like.shape[2:], z.shape[1:], strict=False)]
        z = F.pad(z, [0, 0, *(n for side in reversed(lacking) for n in (0, side))])
    return heads_joined(z.flatten(1, -2), heads, like.shape[2:], like)


def pairs(q: Tensor, k: Tensor, tables: Sequence[Tensor], block: Sides, step: Sides) -> Tensor:
    """Returns w, (M ..., A ..., I ...), of queries and keys in blocks, (M, B, ..., side, ..., d).

    Args:
        block: along each axis, of which the queries are every `step`-th position.
    """
    rank = len(block)
    relations = [
        skewed(table)[:side:by] for table, side, by in zip(tables, block, step, strict=True)
    ]
    return attention(q.flatten(0, rank), k.flatten(0, rank), relations)


@torch.fx.wrap
def attend(
    q: Tensor,
    kv: Tensor,
    tables: Sequence[Tensor],
    heads: int,
    scale: float,
    block: Sides,
    halo: Sides,
    step: Sides,
) -> Tensor:
    """Returns what each query gathers, (N, C, ...).

    Args:
        q: (N, C, ...), of every `step`-th position.
        kv: (N, 2C, ...), of all, keys and values of a head side by side.
        tables: of each axis, (2 (block + 2 halo) - 1, d).
        heads, scale: how many there are, and what the queries are multiplied by.
        block, halo, step: along each axis.
    """
    asked, seen = in_blocks(q, kv, heads, scale, block, halo, step)
    k, v = seen.chunk(2, dim=-1)
    rank = len(block)
    found = gathered(pairs(asked, k, tables, block, step), v.flatten(0, rank))
    shape = (*asked.shape[rank + 1 : -1], found.shape[-1])
    found = unflatten(unflatten(found, 1, shape[:-1]), 0, asked.shape[: rank + 1])
    return whole(found, shape[:-1], q, heads)


def in_blocks(
    q: Tensor, kv: Tensor, heads: int, scale: float, block: Sides, halo: Sides, step: Sides
) -> tuple[Tensor, Tensor]:
    """Returns queries and, with their halo, keys and values, (N heads, B, ..., side, ..., c)."""
    sides = tuple(side // by for side, by in zip(block, step, strict=True))
    asked = blocks(heads_first(q, heads) * scale, sides, (0,) * len(block))
    return asked, blocks(heads_first(kv, heads), block, halo)


def looks(seen: Seen) -> dict[str, Tensor]:
    """Returns with which weights one position looks at those around it, the mean over heads."""
    m, x = seen.module, seen.values[0]
    q, kv = m.q(x), m.kv(x)
    asked, windows = in_blocks(q, kv, m.heads, m.scale, m.block, m.halo, m.step)
    weights = pairs(asked, windows.chunk(2, dim=-1)[0], list(m.tables), m.block, m.step)
    rank = len(m.block)
    shape = (*asked.shape[: rank + 1], *asked.shape[rank + 1 : -1], *windows.shape[rank + 1 : -1])
    weights = weights.reshape(shape)
    index = index_of(seen.position, q.shape[2:])
    sides = [side // by for side, by in zip(m.block, m.step, strict=True)]
    number = [i // side for i, side in zip(index, sides, strict=True)]
    inside = [i % side for i, side in zip(index, sides, strict=True)]
    own = unflatten(weights[(slice(None), *number, *inside)], 0, (-1, m.heads)).mean(1)
    # The windows lie on a map that is wider by the halo, and by what the last blocks lack.
    ends = [n + 2 * h + b for n, h, b in zip(x.shape[2:], m.halo, m.block, strict=True)]
    wide = own.new_zeros(len(x), *ends)
    along = zip(number, m.block, own.shape[1:], strict=True)
    places = [slice(i * b, i * b + n) for i, b, n in along]
    wide[(slice(None), *places)] = own
    inner = [slice(h, h + n) for h, n in zip(m.halo, x.shape[2:], strict=True)]
    return {"attention": wide[(slice(None), *inner)].to(x.dtype)}


def sizes(block: int, halo: int, rank: int) -> tuple[Sides, Sides]:
    """Returns block and halo along each axis."""
    return kernel_along(block, rank), kernel_along(halo, rank)


def count(conv: Conv, heads: int, block: int, halo: int) -> int:
    """Returns the number of parameters."""
    c = conv.out_channels
    along = zip(*sizes(block, halo, len(conv.kernel_size)), strict=True)
    rows = sum(2 * (side + 2 * margin) - 1 for side, margin in along)
    return 3 * conv.in_channels * c + c // heads_of(c, heads) * rows


@mechanism(
    "halo",
    kind="conv",
    ranks=(1, 2, 3),
    placement="block-conv3x3",
    picture=Picture(("attention",), "w of the position that was asked for, mean over heads", looks),
    formula="3 C_in C + 2 (2b - 1) d, b = 8 + 2 * 3, d = C / 8; (2b - 1) d at rank 1, and at rank 3"
    " (2 * 9 - 1) d more",
    count=count,
    identity=replacing(),
    constraints=(
        "a convolution that keeps all positions, but for its stride",
        "heads divide its output channels",
    ),
    limits=("pruning: Torch-Pruning raises a TypeError on its tables of distances",),
    deviations=(
        "no code was published; heads, block and halo are those of the paper's networks and of "
        "timm, and a table has timm's rows, of which the first 2 halo are of distances that no "
        "block has",
        "keys beyond the map are zeros that have their share of the softmax, as in timm; where "
        "blocks do not divide a side, what is missing of the last is beyond the map too, where "
        "timm's module raises",
        "where the convolution has a stride, every so many positions ask, as in the paper, and "
        "distances are those on the map; timm counts them in strides there. Where the stride does "
        "not divide a block, all positions ask, and means over tiles follow, as in timm",
        "logits of distance are scaled like those of content; timm's are not, unless "
        "scale_pos_embed, so that its tables are ours divided by sqrt(d)",
        "kernel, groups and dilation of the convolution do not matter",
        "logits and softmax are computed in float32 also for half-precision values",
        "ranks 1 and 3 are not the authors': blocks are spans, or cover three frames, with a halo "
        "of three",
    ),
)
class Halo(nn.Module):
    """Lets each position gather values from its block and a halo around that.

    Args:
        conv: the convolution that is replaced.
        heads: how many sets of queries and keys there are.
        block: the side of a block.
        halo: how far around its block each position sees.

    Shape:
        x (N, C_in, ...) -> (N, C, ...), of the size that `conv` makes
    """

    def __init__(self, conv: Conv, *, heads: int = 8, block: int = 8, halo: int = 3) -> None:
        super().__init__()
        c, rank = everywhere(conv).out_channels, len(conv.kernel_size)
        width = c // heads_of(c, heads)
        self.heads = heads
        self.scale = width**-0.5
        self.block, self.halo = sizes(block, halo, rank)
        along = list(zip(conv.stride, self.block, strict=True))
        self.step = tuple(by if side % by == 0 else 1 for by, side in along)
        self.tiles = tuple(1 if side % by == 0 else by for by, side in along)
        make = CONV[rank]
        self.q = make(conv.in_channels, c, 1, self.step, bias=False)
        self.kv = make(conv.in_channels, 2 * c, 1, bias=False)
        windows = [side + 2 * margin for side, margin in zip(self.block, self.halo, strict=True)]
        self.tables = nn.ParameterList(torch.empty(2 * n - 1, width) for n in windows)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Starts with queries, keys and values of the size of the input."""
        for layer in (self.q, self.kv):
            nn.init.normal_(layer.weight, std=layer.in_channels**-0.5)
        for table in self.tables:
            nn.init.normal_(table, std=self.scale)

    def forward(self, x: Tensor) -> Tensor:
        """Returns what the positions gathered."""
        found = attend(
            self.q(x), self.kv(x), list(self.tables), self.heads, self.scale,
            self.block, self.halo, self.step,
        )  # fmt: skip
        return tile_means(found, self.tiles)

    def extra_repr(self) -> str:
        """Returns what the parameters do not show."""
        return f"heads={self.heads}, block={self.block}, halo={self.halo}, step={self.step}"
