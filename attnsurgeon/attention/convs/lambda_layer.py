"""Lambda layer: the context becomes a linear function for each position, applied to its queries.

    q = batchnorm(W_q x), h of them; k = softmax over positions of W_k x; v = batchnorm(W_v x)
    lambda_i = sum over all j of k_j v_j^T + sum over j around i of e_(j - i) v_j^T
    y_i = lambda_i^T q_i, side by side for all q

Bello, "LambdaNetworks: Modeling Long-Range Interactions Without Attention", ICLR 2021,
https://arxiv.org/abs/2102.08602
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.fx
from torch import Tensor, nn
from torch.nn import functional as F

from attnsurgeon.attention.checks import map_size, odd_kernel
from attnsurgeon.attention.convs.geometry import Conv
from attnsurgeon.attention.convs.local import everywhere, tile_means, window_of
from attnsurgeon.attention.convs.relative import resized, skewed
from attnsurgeon.attention.gradients import eager
from attnsurgeon.attention.identity import Blend, BlendOld, Identity
from attnsurgeon.attention.kernels import around, kernel_along
from attnsurgeon.attention.layout import tokens, untoken
from attnsurgeon.attention.norms import ONE_VALUE, BatchNorm
from attnsurgeon.attention.partition import heads_of
from attnsurgeon.attention.pictures import Picture, Seen, index_of
from attnsurgeon.attention.precision import wide, without_autocast
from attnsurgeon.attention.reading import read
from attnsurgeon.attention.registry import mechanism
from attnsurgeon.attention.shapes import CONV, unflatten

torch.fx.wrap("tile_means")
CONVOLVE: dict[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
STD = 0.02  # of the rows of distances


@torch.fx.wrap
def by_near(values: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Returns (N v, k, ...): what each value (N, v, ...) adds to the lambdas, by those around.

    Of a small map only the middle of the weight (k, 1, ...) sees anything.
    """
    margins = around(tuple(weight.shape[2:]))
    if eager():
        reach = [min(m, n - 1) for m, n in zip(margins, values.shape[2:], strict=True)]
        middle = (slice(m - r, m + r + 1) for m, r in zip(margins, reach, strict=True))
        weight, margins = weight[(..., *middle)], tuple(reach)
    return CONVOLVE[len(margins)](values.flatten(0, 1).unsqueeze(1), weight, bias, padding=margins)


def everyones(table: Tensor, sides: tuple[int, ...]) -> Tensor:
    """Returns e_(j - i) of all pairs, (P, k, P), of rows (2H - 1, ..., k)."""
    rank = len(sides)
    for side in sides:
        table = skewed(resized(table, side))
        table = table.movedim((0, 1), (table.dim() - 3, table.dim() - 2))
    rows, columns = range(0, 2 * rank, 2), range(1, 2 * rank, 2)
    return table.permute(*rows, 2 * rank, *columns).flatten(rank + 1).flatten(0, rank - 1)


@torch.fx.wrap
def by_all(values: Tensor, table: Tensor) -> Tensor:
    """Returns (N v, k, ...): what each value (N, v, ...) adds to the lambdas, by all positions."""
    e = everyones(table, tuple(values.shape[2:]))  # (P, k, P)
    made = values.flatten(2).flatten(0, 1) @ e.flatten(0, 1).to(values.dtype).T
    made = unflatten(made, 1, (e.shape[0], -1)).transpose(1, 2)  # (N v, k, P)
    return unflatten(made, 2, tuple(values.shape[2:]))


@torch.fx.wrap
def applied(q: Tensor, k: Tensor, v: Tensor, by_place: Tensor, heads: int) -> Tensor:
    """Returns y, (N, heads v, ...), of the layout of `q`.

    Args:
        q: (N, heads k, ...).
        k: (N, k, ...), before the softmax.
        v: (N, v, ...).
        by_place: (N v, k, ...), the second sum of each lambda.
        heads: queries of a position.
    """
    with without_autocast(q):
        rows = unflatten(in_rows(q), 2, (heads, -1))  # (N, P, heads, k)
        values = in_rows(v)  # (N, P, v)
        content = k.to(rows.dtype).flatten(2).softmax(2) @ values  # (N, k, v)
        of_all = rows.flatten(1, 2) @ content  # (N, P heads, v)
        lambdas = unflatten(by_place, 0, v.shape[:2]).flatten(3).permute(0, 3, 2, 1)
        of_place = rows @ lambdas.to(rows.dtype)  # (N, P, heads, v)
        y = (of_all.flatten(1) + of_place.flatten(1)).to(q.dtype)
    return untoken(unflatten(y, 1, (*q.shape[2:], heads * v.shape[1])), q)


def in_rows(x: Tensor) -> Tensor:
    """Returns (N, P, C) of a map (N, C, ...), in float32 at least.

    Channels go last before positions are joined: the other way round, the gradient of one image
    gets strides for which torch's batch norm on a CPU returns a wrong gradient.
    """
    return tokens(x.to(wide(x))).contiguous().flatten(1, -2)


def looks(seen: Seen) -> dict[str, Tensor]:
    """Returns by which weights the values of all positions add up at one, the mean over heads."""
    m, x = seen.module, seen.values[0]
    q, k, _ = m.parts(x)
    q = unflatten(q, 1, (m.heads, -1)).mean(1)  # the weights are linear in it
    sides = x.shape[2:]
    if m.place is not None:
        by_tap = m.place.weight.flatten(2)[:, 0]  # (k, window)
        weight = torch.einsum("nk...,kt->nt...", q, by_tap)
        once = (1,) * len(sides)
        looked = window_of(seen, weight, m.place.kernel_size, once, once)
    index = index_of(seen.position, sides)
    at = 0
    for i, side in zip(index, sides, strict=True):
        at = at * side + i
    own = q.flatten(2)[:, :, at]  # (N, k)
    if m.place is None:
        looked = unflatten(own @ everyones(m.distances, tuple(sides))[at], 1, sides)
    content = own[:, None] @ k.flatten(2).softmax(2)
    return {"attention": looked + unflatten(content[:, 0], 1, sides)}


def kernel(scope: int, rank: int) -> tuple[int, ...]:
    """Returns the window within which distances count, along each axis."""
    return kernel_along(odd_kernel(scope), rank)


def count(
    conv: Conv, heads: int, depth: int, scope: int | None, size: tuple[int, ...] | None
) -> int:
    """Returns the number of parameters."""
    rank, v = len(conv.kernel_size), conv.out_channels // heads_of(conv.out_channels, heads)
    layers = conv.in_channels * (heads * depth + depth + v) + 2 * heads * depth + 2 * v
    if scope is None:
        return layers + depth * math.prod(2 * n - 1 for n in map_size(size, rank))
    return layers + depth * math.prod(kernel(scope, rank)) + depth


def site_args(
    size: tuple[int, ...], scope: int | None, input_size: tuple[int, ...] | None = None
) -> dict[str, tuple[int, ...]]:
    """Returns the size of the convolution's input, where every distance on it has a row."""
    return {} if scope is not None else {"size": tuple(input_size or size)}


def quiet(module: nn.Module) -> nn.Module:
    """Divides the values, so that a sum over the scope does not grow with it."""
    assert isinstance(module, Lambda)
    if module.place is not None:
        nn.init.constant_(module.value_norm.weight, math.prod(module.place.kernel_size) ** -0.5)
    return module


def start(module: nn.Module, replaced: nn.Module | None) -> nn.Module:
    """Starts as the identity, standing alone."""
    return Blend(quiet(module), base=replaced)


def within(module: nn.Module) -> nn.Module:
    """Starts as the identity, in a network."""
    return BlendOld(quiet(module))


@mechanism(
    "lambda",
    kind="conv",
    ranks=(1, 2, 3),
    placement="block-conv3x3",
    picture=Picture(
        ("attention",),
        "q_i . (k_j + e_(j - i)) of the position i that was asked for, the weight of each v_j; "
        "mean over heads, and below 0 too",
        looks,
    ),
    formula="C_in (hk + k + C / h) + 2hk + 2C / h + k m + k, h = 4, k = 16, m = 23^2, 23 at rank 1,"
    " 3 * 23^2 at rank 3; with scope=None (2H - 1)(2W - 1) k for the last two",
    count=count,
    identity=Identity(
        "blend",
        "y = old + g * (mechanism(x) - old), learnable g = 0; values start divided by the root of "
        "the scope's positions, so that their sum is of the size of one",
        start,
        within,
    ),
    constraints=(
        "a convolution that keeps all positions, but for its stride",
        "heads divide its output channels",
        "scope is odd; scope=None needs the size of the input, which a plan takes from the record "
        "of the network",
    ),
    limits=(
        "pruning: Torch-Pruning is still at work after ten seconds on a network of three blocks",
        'FX int8, PT2E int8: under init="paper" the error is three to five times that of the '
        "bare network",
    ),
    deviations=(
        "depth, heads and scope are those of the paper's ImageNet networks; timm's have scope=9",
        "values have one depth (u = 1), as in timm and in most of the paper's networks",
        "with a scope, the sum over distances is a convolution of each value's map, whose weight "
        "has timm's numbers and its bias, which the paper has not",
        "with scope=None and another size than that of the insertion the rows of distances are "
        "interpolated, the farthest staying the farthest; timm's module raises",
        "where the convolution has a stride, means over tiles follow; where the stride does not "
        "divide a side, the last tile is smaller",
        "kernel, groups and dilation of the convolution do not matter",
        "ranks 1 and 3 are not the authors': the scope is a span, or covers three frames",
        ONE_VALUE,
    ),
    site_args=site_args,
)
class Lambda(nn.Module):
    """Applies to the queries of each position a linear function made of what is around it.

    Args:
        conv: the convolution that is replaced.
        heads: how many queries each position has.
        depth: k, of queries and keys.
        scope: within which window the distance of two positions counts, odd; None for everywhere.
        size: the input's (H, W), for a row of each distance where scope is None.

    Shape:
        x (N, C_in, ...) -> (N, C, ...), of the size that `conv` makes
    """

    def __init__(
        self,
        conv: Conv,
        *,
        heads: int = 4,
        depth: int = 16,
        scope: int | None = 23,
        size: tuple[int, ...] | None = None,
    ) -> None:
        super().__init__()
        c, rank = everywhere(conv).out_channels, len(conv.kernel_size)
        self.heads = heads
        self.widths = [heads * depth, depth, c // heads_of(c, heads)]
        self.stride = conv.stride
        make = CONV[rank]
        self.qkv = make(conv.in_channels, sum(self.widths), 1, bias=False)
        self.query_norm = BatchNorm(self.widths[0])
        self.value_norm = BatchNorm(self.widths[2])
        self.place: Conv | None = None
        self.distances: nn.Parameter | None = None
        if scope is None:
            rows = [2 * n - 1 for n in map_size(size, rank)]
            self.distances = nn.Parameter(torch.empty(*rows, depth))
        else:
            window = kernel(scope, rank)
            self.place = read(make(1, depth, window, padding=around(window)))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Starts with queries, keys and values of the size of the input, as timm's networks do."""
        nn.init.normal_(self.qkv.weight, std=self.qkv.in_channels**-0.5)
        if self.place is not None:
            nn.init.normal_(self.place.weight, std=self.widths[1] ** -0.5)
        if self.distances is not None:
            nn.init.normal_(self.distances, std=STD)

    def parts(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns queries (N, h k, ...), keys (N, k, ...) without softmax, values (N, v, ...)."""
        q, k, v = self.qkv(x).split(self.widths, dim=1)
        return self.query_norm(q), k, self.value_norm(v)

    def forward(self, x: Tensor) -> Tensor:
        """Returns what each position's function makes of its queries."""
        q, k, v = self.parts(x)
        if self.distances is not None:
            by_place = by_all(v, self.distances)
        else:
            assert self.place is not None
            assert self.place.bias is not None
            by_place = by_near(v, self.place.weight, self.place.bias)
        return tile_means(applied(q, k, v, by_place, self.heads), self.stride)

    def extra_repr(self) -> str:
        """Returns what the parameters do not show."""
        return f"heads={self.heads}, stride={self.stride}"
