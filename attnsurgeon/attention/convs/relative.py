"""Attention between two grids of positions, which also sees how far apart two of them are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from attnsurgeon.attention.gradients import applied, eager
from attnsurgeon.attention.precision import wide, without_autocast
from attnsurgeon.attention.resampling import channels_last, linear
from attnsurgeon.attention.shapes import unflatten


def skewed(table: Tensor) -> Tensor:
    """Returns (n, n, ...), of i and j the row of the distance j - i, from rows (2n - 1, ...).

    The first row is that of 1 - n. Rows are only copied, so that nothing is gathered by an index,
    whose backward adds in an order that changes from run to run.
    """
    n = (table.shape[0] + 1) // 2
    rows = torch.cat((table, table[:1]))  # one more than is read: each copy begins a place later
    copies = rows.unsqueeze(0).expand(n, *rows.shape).flatten(0, 1)
    return unflatten(copies[n - 1 : -1], 0, (n, 2 * n - 1))[:, :n]


def resized(table: Tensor, n: int) -> Tensor:
    """Returns rows (2n - 1, ...) of a table of distances, interpolated where it has others."""
    if eager() and len(table) == 2 * n - 1:
        return table
    matrix = linear(2 * n - 1, table.shape[0], table)
    return unflatten(matrix @ table.flatten(1), 1, table.shape[1:])


def heads_first(x: Tensor, heads: int) -> Tensor:
    """Returns (N heads, ..., C / heads) of a map (N, C, ...)."""
    x = unflatten(x, 1, (heads, -1)).flatten(0, 1)
    return x.movedim(1, x.dim() - 1)


def heads_joined(z: Tensor, heads: int, sides: Sequence[int], like: Tensor) -> Tensor:
    """Returns a map (N, heads c, ...) of (N heads, P, c), laid out in memory as `like`."""
    if channels_last(like):
        rows = unflatten(z, 0, (-1, heads)).transpose(1, 2).flatten(2)  # (N, P, heads c)
        return unflatten(rows, 1, tuple(sides)).movedim(-1, 1)
    made = z.transpose(1, 2).contiguous()  # (N heads, c, P)
    return unflatten(unflatten(made, 0, (-1, heads)).flatten(1, 2), 2, tuple(sides))


def _lines(x: Tensor, axis: int) -> Tensor:
    """Returns (A, B ..., c) of x (B, A, ..., c): what stands at each place of one axis."""
    return x.movedim(axis, 0).flatten(1, -2)


def _logits(q: Tensor, k: Tensor, *relations: Tensor) -> Tensor:
    queries, keys = [q], [k]
    for axis, relation in enumerate(relations, 1):
        shape = q.movedim(axis, 0).shape[1:-1]
        found = _lines(q, axis) @ relation.transpose(-2, -1)
        queries.append(unflatten(found, 1, shape).movedim(0, axis))
        keys.append(_places(k, axis))
    return torch.cat(queries, -1).flatten(1, -2) @ torch.cat(keys, -1).flatten(1, -2).transpose(
        1, 2
    )


class _Logits(torch.autograd.Function):
    """The products, of which nothing is kept but their factors."""

    generate_vmap_rule = True

    @staticmethod
    def forward(q: Tensor, k: Tensor, *relations: Tensor) -> Tensor:
        return _logits(q, k, *relations)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        q, k, *relations = ctx.saved_tensors
        by_q = unflatten(grad @ k.flatten(1, -2), 1, q.shape[1:-1])
        by_k = unflatten(grad.transpose(1, 2) @ q.flatten(1, -2), 1, k.shape[1:-1])
        pairs = unflatten(unflatten(grad, 2, k.shape[1:-1]), 1, q.shape[1:-1])
        by_relations = []
        for axis, relation in enumerate(relations, 1):
            others = [q.dim() - 2 + i for i in range(1, k.dim() - 1) if i != axis]
            along = pairs.sum(others) if others else pairs  # (B, A, ..., I)
            lines = _lines(along, axis)
            moved = unflatten(lines @ relation, 1, q.movedim(axis, 0).shape[1:-1])
            by_q = by_q + moved.movedim(0, axis)
            by_relations.append(lines.transpose(1, 2) @ _lines(q, axis))
        return by_q, by_k, *by_relations


def attention(q: Tensor, k: Tensor, relations: Sequence[Tensor]) -> Tensor:
    """Returns the softmax over all keys of q . (k + relation of each axis), in float32 at least.

    A product with k and one with each relation are one product where the queries carry the latter
    as further channels and the keys say there where they stand: no second map of all pairs is made.

    Args:
        q: (B, A, ..., d), of positions A, ...; scaled.
        k: (B, I, ..., d), of positions I, ...
        relations: of each axis, (A, I, d).

    Returns:
        (B, A ..., I ...): two axes of positions behind the batch.
    """
    with without_autocast(q):
        dtype = wide(q)
        given = [r.to(dtype) for r in relations]
        return applied(_Logits, q.to(dtype), k.to(dtype), *given).softmax(-1)


def gathered(weights: Tensor, v: Tensor) -> Tensor:
    """Returns for each query the sum of the values (B, I, ..., c) by its weights: (B, A ..., c)."""
    with without_autocast(v):
        return (weights @ v.flatten(1, -2).to(weights.dtype)).to(v.dtype)


def _places(k: Tensor, axis: int) -> Tensor:
    """Returns (B, I, ..., I): a 1 for the place of each key along an axis."""
    along = torch.arange(k.shape[axis], device=k.device)
    one = (along[:, None] == along).to(k.dtype)
    for behind in range(k.dim() - 2 - axis):
        one = one.unsqueeze(1 + behind)
    return one.expand(*k.shape[:-1], k.shape[axis])
