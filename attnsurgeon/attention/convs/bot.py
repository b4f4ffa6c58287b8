"""Bottleneck transformer's attention: all positions, compared by content and by distance.

    w_ij = softmax over j of q_i . (k_j + r_(j - i)) / sqrt(d), r_(j - i) a row for each axis, added
    y_i = sum over j of w_ij v_j, side by side for all heads

Srinivas et al., "Bottleneck Transformers for Visual Recognition", CVPR 2021,
https://arxiv.org/abs/2101.11605
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.fx
from torch import Tensor, nn

from attnsurgeon.attention.checks import map_size
from attnsurgeon.attention.convs.geometry import Conv
from attnsurgeon.attention.convs.local import everywhere, tile_means
from attnsurgeon.attention.convs.relative import (
    attention,
    gathered,
    heads_first,
    heads_joined,
    resized,
    skewed,
)
from attnsurgeon.attention.identity import replacing
from attnsurgeon.attention.partition import heads_of
from attnsurgeon.attention.pictures import Picture, Seen, index_of
from attnsurgeon.attention.registry import mechanism
from attnsurgeon.attention.shapes import CONV, unflatten

torch.fx.wrap("tile_means")


def pairs(q: Tensor, k: Tensor, tables: Sequence[Tensor], heads: int, scale: float) -> Tensor:
    """Returns w, (N heads, P, P), of maps q and k (N, C, ...) and a table of each axis."""
    relations = [skewed(resized(t, q.shape[axis])) for axis, t in enumerate(tables, 2)]
    return attention(heads_first(q, heads) * scale, heads_first(k, heads), relations)


@torch.fx.wrap
def attend(qkv: Tensor, tables: Sequence[Tensor], heads: int, scale: float) -> Tensor:
    """Returns what each position gathers, (N, C, ...), of queries, keys and values (N, 3C, ...)."""
    q, k, v = qkv.chunk(3, dim=1)
    found = gathered(pairs(q, k, tables, heads, scale), heads_first(v, heads))
    return heads_joined(found, heads, qkv.shape[2:], qkv)


def looks(seen: Seen) -> dict[str, Tensor]:
    """Returns with which weights one position looks at the others, the mean over heads."""
    module, x = seen.module, seen.values[0]
    at, sides = 0, x.shape[2:]
    for index, side in zip(index_of(seen.position, sides), sides, strict=True):
        at = at * side + index
    q, k, _ = module.qkv(x).chunk(3, dim=1)
    weights = pairs(q, k, list(module.tables), module.heads, module.scale)[:, at]
    weights = unflatten(weights, 0, (-1, module.heads)).mean(1)
    return {"attention": unflatten(weights, 1, sides).to(x.dtype)}


def count(conv: Conv, heads: int, size: tuple[int, ...] | None) -> int:
    """Returns the number of parameters."""
    c, rank = conv.out_channels, len(conv.kernel_size)
    rows = sum(2 * n - 1 for n in map_size(size, rank))
    return 3 * conv.in_channels * c + c // heads_of(c, heads) * rows


def site_args(
    size: tuple[int, ...], input_size: tuple[int, ...] | None = None
) -> dict[str, tuple[int, ...]]:
    """Returns the size of the map that is looked at: the convolution's input."""
    return {"size": tuple(input_size or size)}


@mechanism(
    "bot",
    kind="conv",
    ranks=(1, 2, 3),
    placement="last-stage-conv3x3",
    picture=Picture(("attention",), "w of the position that was asked for, mean over heads", looks),
    formula="3 C_in C + (2H - 1 + 2W - 1) d, d = C / 4; 2L - 1 for the sum at rank 1, with 2D - 1 "
    "more at rank 3",
    count=count,
    identity=replacing(),
    constraints=(
        "a convolution that keeps all positions, but for its stride",
        "heads divide its output channels",
        "size is that of its input; a plan takes it from the record of the network",
    ),
    limits=(
        "pruning: Torch-Pruning raises a TypeError on its tables of distances",
        "PT2E int8: torchao's quantizer takes the integers that positions are counted with for "
        "values, and raises",
    ),
    deviations=(
        "at another size than that of the insertion the tables of distances are interpolated, the "
        "farthest staying the farthest; the authors have a table for each size, and timm's module "
        "raises",
        "logits of distance are scaled like those of content, as in the attention augmented "
        "convolutions that they are taken from; timm's are not, unless scale_pos_embed, so that "
        "its tables are ours divided by sqrt(d)",
        "where the convolution has a stride, means over tiles follow the attention, as in the "
        "paper; where the stride does not divide a side, the last tile is smaller",
        "kernel, groups and dilation of the convolution do not matter",
        "logits and softmax are computed in float32 also for half-precision values",
        "ranks 1 and 3 are not the authors': a table for each axis that there is",
    ),
    site_args=site_args,
)
class BoT(nn.Module):
    """Lets each position gather values from all of a map.

    Args:
        conv: the convolution that is replaced.
        heads: how many sets of queries and keys there are.
        size: the input's (H, W), for a row of each distance.

    Shape:
        x (N, C_in, ...) -> (N, C, ...), of the size that `conv` makes
    """

    def __init__(self, conv: Conv, *, heads: int = 4, size: tuple[int, ...] | None = None) -> None:
        super().__init__()
        c, rank = everywhere(conv).out_channels, len(conv.kernel_size)
        width = c // heads_of(c, heads)
        self.heads = heads
        self.scale = width**-0.5
        self.stride = conv.stride
        self.size = tuple(map_size(size, rank))
        self.qkv = CONV[rank](conv.in_channels, 3 * c, 1, bias=False)
        self.tables = nn.ParameterList(torch.empty(2 * n - 1, width) for n in self.size)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Starts as the authors' networks do."""
        nn.init.normal_(self.qkv.weight, std=self.qkv.in_channels**-0.5)
        for table in self.tables:
            nn.init.normal_(table, std=self.scale)

    def forward(self, x: Tensor) -> Tensor:
        """Returns what the positions gathered."""
        found = attend(self.qkv(x), list(self.tables), self.heads, self.scale)
        return tile_means(found, self.stride)

    def extra_repr(self) -> str:
        """Returns what the parameters do not show."""
        return f"heads={self.heads}, size={self.size}, stride={self.stride}"
