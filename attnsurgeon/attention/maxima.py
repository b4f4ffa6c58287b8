"""(N, C, ...) -> maxima over whole axes or over windows, with a backward that runs through once.

The backward of torch.amax compares into booleans, and max_pool2d compares value by value; on a CPU
both take many times as long as the passes here. Nothing is added in an order that changes from run
to run, as the backward of max_pool2d does on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any

import torch
import torch.fx
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from attnsurgeon.attention.gradients import applied, eager, equal_
from attnsurgeon.attention.shapes import positions

_Step = Callable[[Tensor, int], Tensor]  # (x, axis) -> y
_Back = Callable[[Tensor, Tensor, Tensor, int], Tensor]  # (gradient of y, x, y, axis) -> of x


def _where_equal(x: Tensor, y: Tensor) -> Tensor:
    """Returns 1 where x == y, else 0, in the dtype of `x`."""
    return equal_(x.clone(), y)


class AlongAxes(torch.autograd.Function):
    """A function of (x, axes) whose backward compares `x` with what came out."""

    generate_vmap_rule = True

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Keeps both, and the axes."""
        x, ctx.axes = inputs
        ctx.save_for_backward(x, output)


class Amax(AlongAxes):
    """The maximum over some axes, which are kept; how its gradient is found is left open."""

    @staticmethod
    def forward(x: Tensor, axes: tuple[int, ...]) -> Tensor:
        """Returns the maxima."""
        return x.amax(axes, keepdim=True)


class _Largest(Amax):
    """The maximum over some axes; equal maxima share the gradient evenly."""

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        x, top = ctx.saved_tensors
        chosen = _where_equal(x, top)
        return chosen.mul_(grad / chosen.sum(ctx.axes, keepdim=True)), None


@torch.fx.wrap
def largest(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Returns the maxima over `axes`, each kept with length 1."""
    return applied(_Largest, x, axes)


def _steps_back(step: _Step, back: _Back, ctx: Any, grad: Tensor) -> Tensor:
    """Returns the gradient of x from that of y = reduce(step, axes, x); `back` is of one step."""
    x, y = ctx.saved_tensors
    steps = [x]
    for axis in ctx.axes[:-1]:  # they were not kept
        steps.append(step(steps[-1], axis))
    steps.append(y)
    for i in reversed(range(len(ctx.axes))):
        grad = back(grad, steps[i], steps[i + 1], ctx.axes[i])
    return grad


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


def _slid(x: Tensor, axis: int) -> Tensor:
    """Returns the same as `_slide`, written into nothing."""
    padded = F.pad(x, (0, 0) * (x.dim() - 1 - axis) + (1, 1), value=-torch.inf)
    shifted = [padded.narrow(axis, start, x.shape[axis]) for start in (0, 2)]
    return torch.maximum(torch.maximum(*shifted), x)


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


class _WindowMax(AlongAxes):
    """The maximum over the 3 x 3 neighbours of each position, one axis after the other."""

    @staticmethod
    def forward(x: Tensor, axes: tuple[int, ...]) -> Tensor:
        return reduce(_slide, axes, x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _steps_back(_slide, _unslide, ctx, grad), None


@torch.fx.wrap
def window_max(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Returns the largest of each value and its neighbours along `axes` (3 x 3 windows for two)."""
    return applied(_WindowMax, x, axes, traced=lambda x, axes: reduce(_slid, axes, x))


def _halve(x: Tensor, axis: int) -> Tensor:
    """Returns the larger of every second value and its two neighbours along an axis."""
    even, odd = _turns(x, axis)
    y = even.clone(memory_format=torch.contiguous_format)
    behind, before = _neighbours(odd, y, axis)
    behind.clamp_min_(odd)
    before.clamp_min_(odd.narrow(axis, 0, before.shape[axis]))
    return y


def _turns(x: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """Returns the views of `x` with the first, third, ... and the second, fourth, ... places."""
    index = [slice(None)] * axis
    return x[(*index, slice(None, None, 2))], x[(*index, slice(1, None, 2))]


def _neighbours(odd: Tensor, y: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """Returns the views of `y` with the places that have an odd one behind, and before them."""
    return y.narrow(axis, 0, odd.shape[axis]), y.narrow(axis, 1, y.shape[axis] - 1)


def _unhalve(grad: Tensor, x: Tensor, y: Tensor, axis: int) -> Tensor:
    """Returns the gradient of `x` from that of y = _halve(x, axis); ties as in `_unslide`."""
    even, odd = _turns(x, axis)
    result = torch.empty_like(x)
    to_even, to_odd = _turns(result, axis)
    to_even.copy_(_where_equal(even, y).mul_(grad))
    left = grad - to_even
    _, y_before = _neighbours(odd, y, axis)
    behind, before = _neighbours(odd, left, axis)
    first = odd.narrow(axis, 0, before.shape[axis])
    taken = _where_equal(first, y_before).mul_(before)
    before.sub_(taken)
    to_odd.copy_(behind)
    to_odd.narrow(axis, 0, before.shape[axis]).add_(taken)
    return result


class _HalvedMax(AlongAxes):
    """The maximum over 3 x 3 windows around every second position, one axis after the other."""

    @staticmethod
    def forward(x: Tensor, axes: tuple[int, ...]) -> Tensor:
        return reduce(_halve, axes, x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _steps_back(_halve, _unhalve, ctx, grad), None


def halved_max(x: Tensor) -> Tensor:
    """Returns (N, C, ...) pooled by maxima of 3 x 3 windows, stride 2, centred on the first."""
    axes = positions(x.dim() - 2)
    if not eager():  # a graph for all sizes may not ask whether a half is 1
        return window_max(x, axes)[(slice(None), slice(None), *[slice(None, None, 2)] * len(axes))]
    return applied(_HalvedMax, x, axes)


@torch.fx.wrap
def tile_max(x: Tensor) -> Tensor:
    """Returns (N, C, ...) by maxima of tiles of 2 x 2, (1, 2, 2) in clips, without what is left
    over; an axis of one place stays as it is. Two equal maxima share the gradient.
    """
    rank = x.dim() - 2
    for axis in positions(rank)[-2:]:
        if eager() and x.shape[axis] == 1:
            continue
        whole = x.narrow(axis, 0, x.shape[axis] // 2 * 2)
        x = torch.maximum(*_turns(whole, axis))
    return x


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
