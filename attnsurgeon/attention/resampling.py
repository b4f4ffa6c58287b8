"""Small matrices that pool an axis into windows or spread windows out again, and their products.

Strided and adaptive pooling and interpolation of torch's own add, in their CUDA backward, in an
order that changes from run to run; products with matrices do not. They also serve every rank.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from attnsurgeon.attention.gradients import applied, eager
from attnsurgeon.attention.shapes import freedom, unflatten


def adaptive(length: int, parts: int, like: Tensor) -> Tensor:
    """Returns (parts, length): means over `parts` windows of nearly one size that cover all."""
    # window i covers place j where j < (i + 1) length / parts and j + 1 > i length / parts
    offset = _offsets(length, parts, parts, length, like)
    return _means(torch.logical_and(offset > -parts, offset < length), like)


def tiles(length: int, size: int, like: Tensor) -> Tensor:
    """Returns (ceil(length / size), length): means over tiles; the last may be smaller."""
    offset = _offsets(length, (length + size - 1) // size, 1, size, like)
    return _means(torch.logical_and(offset >= 0, offset < size), like)


def windows(length: int, stride: int, like: Tensor) -> Tensor:
    """Returns (ceil(length / stride), length): means over 2 * stride - 1 places, within the axis.

    The windows are centred on 0, stride, 2 * stride and so on.
    """
    offset = _offsets(length, (length + stride - 1) // stride, 1, stride, like)
    return _means(torch.logical_and(offset > -stride, offset < stride), like)


def nearest(length: int, parts: int, like: Tensor) -> Tensor:
    """Returns (length, parts): each place takes the value of the part that it lies in."""
    offset = _offsets(length, parts, parts, length, like)
    return torch.logical_and(offset >= 0, offset < length).T.to(like.dtype)


def repeats(length: int, size: int, like: Tensor) -> Tensor:
    """Returns (length, ceil(length / size)): each place takes the value of its tile."""
    offset = _offsets(length, (length + size - 1) // size, 1, size, like)
    return torch.logical_and(offset >= 0, offset < size).T.to(like.dtype)


def linear(length: int, parts: int, like: Tensor) -> Tensor:
    """Returns (length, parts): each place lies on the line between the two parts around it.

    The first and the last place take the values of the first and the last part.
    """
    step = freedom(length)
    # place i lies at i (parts - 1) / step, and part j reaches as far as its neighbours
    offset = _offsets(length, parts, parts - 1, step, like)
    near = torch.promote_types(like.dtype, torch.float32)
    return (1 - offset.abs().to(near) / step).clamp(min=0).T.to(like.dtype)


def centred(length: int, parts: int, like: Tensor) -> Tensor:
    """Returns (length, parts): the same, where places and parts are of one extent, and a place lies
    between the middles of two parts; what lies outside of these takes the value of the nearest.
    """
    # The middle of place i lies at (2 i + 1) parts / 2 length parts, that of part j at j + 1/2.
    middles = torch.arange(length, device=like.device) * 2 * parts + (parts - length)
    middles = middles.clamp(min=0)
    middles = torch.minimum(middles, torch.full_like(middles, 1) * (2 * length * (parts - 1)))
    offset = middles[:, None] - torch.arange(parts, device=like.device) * (2 * length)
    near = torch.promote_types(like.dtype, torch.float32)
    return (1 - offset.abs().to(near) / (2 * length)).clamp(min=0).to(like.dtype)


def _offsets(length: int, parts: int, place: int, step: int, like: Tensor) -> Tensor:
    """Returns (parts, length): place * j - step * i, for place j and window i."""
    columns = torch.arange(length, device=like.device) * place
    return columns - (torch.arange(parts, device=like.device) * step)[:, None]


def _means(inside: Tensor, like: Tensor) -> Tensor:
    """Returns a matrix whose rows average the places inside."""
    inside = inside.to(torch.promote_types(like.dtype, torch.float32))  # bfloat16 counts to 256
    return (inside / inside.sum(1, keepdim=True)).to(like.dtype)


def along(x: Tensor, axis: int, matrix: Tensor, *, like: Tensor) -> Tensor:
    """Returns `x` with one position axis multiplied by a matrix (out, in), laid out as `like`."""
    if channels_last(like):
        x = x.movedim(1, x.dim() - 1)
        return unflatten(matrix @ x.flatten(axis), -1, x.shape[axis:]).movedim(x.dim() - 1, 1)
    x = x.movedim(axis, x.dim() - 1)
    return unflatten(times(x.flatten(0, -2), matrix), 0, x.shape[:-1]).movedim(x.dim() - 1, axis)


def pool_to(x: Tensor, size: tuple[int, ...]) -> Tensor:
    """Returns `x` (N, C, ...) with its map averaged to another size."""
    pooled = x
    for axis, side in reversed(list(enumerate(size, 2))):
        if not (eager() and x.shape[axis] == side):
            pooled = along(pooled, axis, adaptive(x.shape[axis], side, x), like=x)
    return pooled


def spread_to(z: Tensor, like: Tensor) -> Tensor:
    """Returns `z` (N, C, ...) interpolated to the size of `like`, each place from the nearest."""
    return _to_size(z, like, nearest)


def interpolate_to(z: Tensor, like: Tensor) -> Tensor:
    """Returns `z` (N, C, ...) interpolated linearly to the size of `like`, corners aligned."""
    return _to_size(z, like, linear)


def resized_to(z: Tensor, like: Tensor) -> Tensor:
    """Returns `z` (N, C, ...) interpolated linearly to the size of `like`, corners not aligned."""
    return _to_size(z, like, centred)


def _to_size(z: Tensor, like: Tensor, matrix: Callable[[int, int, Tensor], Tensor]) -> Tensor:
    for axis in range(2, like.dim()):
        length, parts = like.shape[axis], z.shape[axis]
        if not (eager() and length == parts):
            z = along(z, axis, matrix(length, parts, z), like=like)
    return z


def channels_last(x: Tensor) -> bool:
    """Says whether the channels of a position lie side by side in memory."""
    return x.stride(1) == 1 and x.shape[1] > 1


def times(x: Tensor, matrix: Tensor) -> Tensor:
    """Returns x @ matrix.T for `x` (..., n, in) and `matrix` (..., out, in)."""
    return applied(_Product, x, matrix)


def product(x: Tensor, matrix: Tensor) -> Tensor:
    """Returns x @ matrix.T, in the order of factors that is several times faster on a CPU.

    A result that is small may come out transposed; a large one keeps the layout of `x`, for it
    will meet others of that layout.
    """
    if not eager():
        return x @ matrix.transpose(-2, -1)
    if matrix.shape[-1] == 1:
        return x * matrix.transpose(-2, -1)
    if matrix.shape[-2] < matrix.shape[-1]:
        return (matrix @ x.transpose(-2, -1)).transpose(-2, -1)
    return x @ matrix.transpose(-2, -1)


class _Product(torch.autograd.Function):
    """x @ matrix.T, each of whose two products has the factors in the better order."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, matrix: Tensor) -> Tensor:
        return product(x, matrix)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        x, matrix = inputs
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, matrix)

    @staticmethod
    def backward(ctx: Any, by_result: Tensor) -> tuple[Tensor, Tensor | None]:
        x, matrix = ctx.saved_tensors
        by_matrix = None
        if x is not None:
            by_matrix = (by_result.transpose(-2, -1) @ x).sum_to_size(matrix.shape)
        return product(by_result, matrix.transpose(-2, -1)), by_matrix
