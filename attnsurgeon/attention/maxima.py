"""(N, C, ...) -> maxima over whole axes or over windows, with a backward that runs through once.

The backward of torch.amax compares into booleans, and max_pool2d compares value by value; on a CPU
both take many times as long as the passes here. Nothing is added in an order that changes from run
to run, as the backward of max_pool2d does on a GPU.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.fx
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from attnsurgeon.attention.shapes import positions


def _where_equal(x: Tensor, y: Tensor) -> Tensor:
    """Returns 1 where x == y, else 0, in the dtype of `x`: a product with booleans is slow."""
    return x.clone().eq_(y)


class _Largest(torch.autograd.Function):
    """The maximum over some axes, which are kept; equal maxima share the gradient evenly."""

    @staticmethod
    def forward(x: Tensor, axes: tuple[int, ...]) -> Tensor:
        return x.amax(axes, keepdim=True)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, ctx.axes = inputs
        ctx.save_for_backward(x, output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        x, top = ctx.saved_tensors
        chosen = _where_equal(x, top)
        return chosen.mul_(grad / chosen.sum(ctx.axes, keepdim=True)), None


@torch.fx.wrap
def largest(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Returns the maxima over `axes`, each kept with length 1."""
    return _Largest.apply(x, axes)


def _sides(x: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """Returns the views of `x` without its last and without its first place along an axis."""
    rest = x.shape[axis] - 1
    return x.narrow(axis, 0, rest), x.narrow(axis, 1, rest)


def _slide(x: Tensor, axis: int) -> Tensor:
    """Returns the larger of each value and its two neighbours along an axis."""
    y = x.clone()
    before, after = _sides(x, axis)
    upper, lower = _sides(y, axis)
    lower.clamp_min_(before)
    upper.clamp_min_(after)
    return y


def _unslide(grad: Tensor, x: Tensor, y: Tensor, axis: int) -> Tensor:
    """Returns the gradient of `x` from that of y = _slide(x, axis).

    Of equal values the one in the middle takes all, then the one before it; what neither takes is
    left to the one behind.
    """
    before, _ = _sides(x, axis)
    _, y_after = _sides(y, axis)
    result = _where_equal(x, y).mul_(grad)
    left = grad - result
    left_before, left_after = _sides(left, axis)
    taken = _where_equal(before, y_after).mul_(left_after)
    left_after.sub_(taken)
    to_before, to_after = _sides(result, axis)
    to_before.add_(taken)
    to_after.add_(left_before)
    return result


class _WindowMax(torch.autograd.Function):
    """The maximum over the 3 x 3 neighbours of each position, one axis after the other."""

    @staticmethod
    def forward(x: Tensor, axes: tuple[int, ...]) -> Tensor:
        for axis in axes:
            x = _slide(x, axis)
        return x

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, ctx.axes = inputs
        ctx.save_for_backward(x, output)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        x, y = ctx.saved_tensors
        steps = [x]
        for axis in ctx.axes[:-1]:
            steps.append(_slide(steps[-1], axis))
        for axis, start, end in zip(
            reversed(ctx.axes), reversed(steps), [y, *reversed(steps[1:])], strict=True
        ):
            grad = _unslide(grad, start, end, axis)
        return grad, None


@torch.fx.wrap
def window_max(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Returns the largest of each value and its neighbours along `axes` (3 x 3 windows for two)."""
    return _WindowMax.apply(x, axes)


class Largest(nn.Module):
    """The maxima over axis 1, which is kept with length 1.

    Shape:
        x (N, L, ...) -> (N, 1, ...)
    """

    def forward(self, x: Tensor) -> Tensor:
        """Returns the maxima."""
        return largest(x, (1,))


class WindowMax(nn.Module):
    """The largest of each value and its neighbours along all position axes, as a 3 x 3 pooling.

    Shape:
        x (N, C, ...) -> the same
    """

    def __init__(self, *, rank: int = 2) -> None:
        super().__init__()
        self.axes = positions(rank)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the maxima."""
        return window_max(x, self.axes)
