"""(N, C, ...) -> one or two numbers a channel, or a plane of them, by reducing some axes.

The functions are wrapped so that torch.fx records a call instead of tracing into them: what they
decide by size or dtype stays decided by the input, not by the one that was traced.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.fx
from torch import Tensor, nn

from attnsurgeon.attention.gradients import applied, jit_traces
from attnsurgeon.attention.maxima import Amax
from attnsurgeon.attention.shapes import extent, freedom, per_channel, positions


@torch.fx.wrap
def mean(x: Tensor, axes: tuple[int, ...], keepdim: bool = False) -> Tensor:
    """Returns the mean over `axes` as a scaled sum; the backward of a sum needs no memory."""
    if x.dtype == torch.float16:  # a sum overflows at 65504; mean() divides before it rounds
        return x.mean(axes, keepdim)
    return x.sum(axes, keepdim) * (1 / extent(x, axes))


class _Moments(torch.autograd.Function):
    """Mean and unbiased variance, saving `x` alone for the backward.

    torch.var_mean does so too, but is tens of times slower than two passes on a CPU; two passes
    in plain operations save x - mean as well.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, axes: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        center = mean(x, axes, keepdim=True)
        spread = (x - center).square().sum(axes)
        return center.flatten(1), spread * (1 / freedom(extent(x, axes)))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        x, ctx.axes = inputs
        ctx.save_for_backward(x)

    @staticmethod
    def backward(ctx: Any, by_mean: Tensor, by_variance: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        rank = len(ctx.axes)
        deviation = x - mean(x, ctx.axes, keepdim=True)
        slope = per_channel(by_variance * (2 / freedom(extent(x, ctx.axes))), rank)
        level = per_channel(by_mean * (1 / extent(x, ctx.axes)), rank)
        return torch.addcmul(level, deviation, slope), None


@torch.fx.wrap
def moments(x: Tensor, axes: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Returns mean and unbiased variance over `axes`, in float32 at least."""
    return applied(_Moments, x.to(torch.promote_types(x.dtype, torch.float32)), axes)


class _Max(Amax):
    """amax with amax's gradient, shared by ties, in fewer passes than its own backward makes."""

    @staticmethod
    def backward(ctx: Any, by_max: Tensor) -> tuple[Tensor, None]:
        x, largest = (t.detach() for t in ctx.saved_tensors)
        # One map serves for all; the zeros make it many where vmap hands over many gradients.
        share = (x - (largest + torch.zeros_like(by_max))).sign_().add_(1)  # 1 at the largest, or 0
        return share.mul_(by_max / share.sum(ctx.axes, keepdim=True)), None


@torch.fx.wrap
def peak(x: Tensor, axes: tuple[int, ...], keepdim: bool = False) -> Tensor:
    """Returns the maximum over `axes`."""
    largest = applied(_Max, x, axes)
    if keepdim:
        return largest
    if not jit_traces():
        return largest.squeeze(axes)
    for axis in sorted(axes, reverse=True):  # all at once is an operation that ONNX lacks
        largest = largest.squeeze(axis)
    return largest


class Pool(nn.Module):
    """What reduces some axes, the first position axis among them or not.

    In a row of tokens, (N, C, L, 1), there may be tokens of no position, as a class token; they
    are gated like the others, but `leave_out` keeps them out of what the gate is computed from.
    """

    axes: tuple[int, ...]
    beside: tuple[int, int] = (0, 0)  # tokens left out ahead of the others and behind them

    def chosen(self, x: Tensor) -> Tensor:
        """Returns `x` without the tokens to be left out."""
        before, after = self.beside
        return x[:, :, before : x.shape[2] - after] if before or after else x


def leave_out(module: nn.Module, before: int, after: int) -> bool:
    """Keeps tokens of no position out of all that a module pools; False where it pools nothing."""
    pools = [m for m in module.modules() if isinstance(m, Pool) and 2 in m.axes]
    for pool in pools:
        pool.beside = (before, after)
    return bool(pools)


class Over(Pool):
    """One number for all values along some axes; by default one for each channel.

    Args:
        rank: of the map, of which all positions are pooled.
        axes: others, instead of those.
        keepdim: keep the axes, with length 1.

    Shape:
        x (N, C, ...) -> (N, C), or with other axes what they leave
    """

    def __init__(
        self, *, rank: int = 2, axes: tuple[int, ...] | None = None, keepdim: bool = False
    ) -> None:
        super().__init__()
        self.axes = axes or positions(rank)
        self.keepdim = keepdim


class Mean(Over):
    """Mean over some axes; by default each channel's mean over all positions."""

    def forward(self, x: Tensor) -> Tensor:
        """Returns the means."""
        return mean(self.chosen(x), self.axes, self.keepdim)


class Max(Over):
    """Maximum over some axes; by default each channel's maximum over all positions."""

    def forward(self, x: Tensor) -> Tensor:
        """Returns the maxima."""
        return peak(self.chosen(x), self.axes, self.keepdim)


class Mixed(Over):
    """Half the sum of mean and maximum over some axes, known as mixed pooling."""

    def forward(self, x: Tensor) -> Tensor:
        """Returns them."""
        x = self.chosen(x)
        return (mean(x, self.axes, self.keepdim) + peak(x, self.axes, self.keepdim)) / 2


class Moments(Pool):
    """Mean and unbiased variance of each channel over all positions, in float32 at least.

    Shape:
        x (N, C, ...) -> (N, C), (N, C)
    """

    def __init__(self, *, rank: int = 2) -> None:
        super().__init__()
        self.axes = positions(rank)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns means and variances."""
        return moments(self.chosen(x), self.axes)
