"""Contextual transformer: a convolution's context makes the kernels of each position's window.

    k = relu(batchnorm(conv(x))), 4 groups
    w = groupnorm(W2 relu(batchnorm(W1 [x, k]))), a window for each position and C / 8 channels
    v = swish(batchnorm(sum over the window of w * batchnorm(W_v x)))
    a = softmax over the two of W4 relu(batchnorm(W3 mean(v + k)))
    y = a_v v + a_k k

Li et al., "Contextual Transformer Networks for Visual Recognition", TPAMI 2022,
https://arxiv.org/abs/2107.12292
"""

from __future__ import annotations

import math

import torch
import torch.fx
from torch import Tensor, nn
from torch.nn import functional as F

from attnsurgeon.attention.checks import odd_kernel
from attnsurgeon.attention.convs.geometry import Conv
from attnsurgeon.attention.convs.local import in_its_place, local_sums, window_of
from attnsurgeon.attention.identity import replacing
from attnsurgeon.attention.kernels import around, kernel_along
from attnsurgeon.attention.norms import ONE_VALUE, BatchNorm
from attnsurgeon.attention.partition import groups_of
from attnsurgeon.attention.pictures import Picture, Seen
from attnsurgeon.attention.pooling import Mean
from attnsurgeon.attention.registry import mechanism
from attnsurgeon.attention.resampling import along, windows
from attnsurgeon.attention.shapes import CONV, per_channel, unflatten

torch.fx.wrap("local_sums")
KEY_GROUPS, SHARE, FACTOR, RADIX = 4, 8, 2, 2  # of the authors
LEAST = 32  # channels between the last two layers


@torch.fx.wrap
def strided(x: Tensor, stride: tuple[int, ...]) -> Tensor:
    """Returns the means over windows around every position that a stride leaves."""
    for axis, step in enumerate(stride, 2):
        if step > 1:
            x = along(x, axis, windows(x.shape[axis], step, x), like=x)
    return x


def looks(seen: Seen) -> dict[str, Tensor]:
    """Returns the kernel of one position, the mean over its channels, and the two shares."""
    module = seen.module
    x = strided(seen.values[0], module.stride)
    weight = module.kernels(x, module.context(x)).mean((1, 2))
    dilation = tuple(d * s for d, s in zip(module.dilation, module.stride, strict=True))
    looked = window_of(seen, weight, module.kernel, module.stride, dilation)
    return {"branches": seen.last("softmax"), "attention": looked}


def width(channels: int) -> int:
    """Returns the width between the two layers that weigh the branches."""
    return max(channels * RADIX // 4, LEAST)


def count(conv: Conv, kernel_size: int) -> int:
    """Returns the number of parameters."""
    c, rank = conv.in_channels, len(conv.kernel_size)
    window = math.prod(kernel_along(odd_kernel(kernel_size), rank))
    made, h, m = window * c // SHARE, c // FACTOR, width(c)
    context = window * c * c // KEY_GROUPS + 2 * c
    kernels = 2 * c * h + 2 * h + h * made + made + 2 * made
    values = c * c + 2 * c + 2 * c
    return context + kernels + values + c * m + m + 2 * m + m * RADIX * c + RADIX * c


@mechanism(
    "cot",
    kind="conv",
    ranks=(1, 2, 3),
    placement="block-conv3x3",
    picture=Picture(
        ("branches", "attention"),
        "a_v and a_k, which add up to 1 in each channel; the kernel of the position that was "
        "asked for, mean over channels",
        looks,
    ),
    formula="K C^2 / 4 + 2C + C^2 + C + (C/2) s + 3s + C^2 + 4C + Cm + 3m + 2Cm + 2C, K = k^2, "
    "s = K C / 8, m = max(C/2, 32); K = k at rank 1, 3k^2 at rank 3",
    count=count,
    identity=replacing(),
    constraints=(
        "a convolution that keeps the number of channels, a multiple of 8, and all positions, but "
        "for its stride",
        "kernel_size is odd",
    ),
    limits=(
        "pruning: Torch-Pruning is still at work after ten seconds on a network of three blocks",
    ),
    deviations=(
        "where the convolution has a stride, the map is averaged over windows first, as in the "
        "authors' networks; these count the padding as zeros, here a window ends with the map",
        "the activation behind the convolution stays, which the authors leave out",
        "the bias straight before a batch norm is kept to have the authors' parameters; it cannot "
        "learn while the norm uses batch statistics",
        "ranks 1 and 3 are not the authors': the window is a span, or covers three frames",
        ONE_VALUE,
    ),
    unmoved=("squeeze.bias",),
    swallows_norm=True,
)
class CoT(nn.Module):
    """Mixes the context of a convolution with sums by kernels that this context makes.

    Args:
        conv: the convolution that is replaced.
        kernel_size: of the context and of the windows, odd.

    Shape:
        x (N, C, ...) -> (N, C, ...), of the size that `conv` makes
    """

    def __init__(self, conv: Conv, *, kernel_size: int = 3) -> None:
        super().__init__()
        c, rank = in_its_place(conv).in_channels, len(conv.kernel_size)
        groups_of(c, SHARE)
        make = CONV[rank]
        self.kernel = kernel_along(odd_kernel(kernel_size), rank)
        self.stride, self.dilation = conv.stride, conv.dilation
        self.rank = rank
        window, h, m = math.prod(self.kernel), c // FACTOR, width(c)
        margin = tuple(d * p for d, p in zip(self.dilation, around(self.kernel), strict=True))
        self.key = make(c, c, self.kernel, 1, margin, self.dilation, KEY_GROUPS, bias=False)
        self.key_norm = BatchNorm(c)
        self.embed = make(2 * c, h, 1, bias=False)
        self.embed_norm = BatchNorm(h)
        self.span = make(h, window * c // SHARE, 1)
        self.span_norm = nn.GroupNorm(c // SHARE, window * c // SHARE)
        self.value = make(c, c, 1, bias=False)
        self.value_norm = BatchNorm(c)
        self.norm = BatchNorm(c)
        self.pool = Mean(rank=rank)
        self.squeeze = nn.Linear(c, m)
        self.squeeze_norm = BatchNorm(m)
        self.expand = nn.Linear(m, RADIX * c)

    def context(self, x: Tensor) -> Tensor:
        """Returns k."""
        return F.relu(self.key_norm(self.key(x)))

    def kernels(self, x: Tensor, context: Tensor) -> Tensor:
        """Returns (N, 1, C / 8, window, ...): the weights of each position's window."""
        both = torch.cat((x.to(context.dtype), context), dim=1)
        w = self.span_norm(self.span(F.relu(self.embed_norm(self.embed(both)))))
        return unflatten(w, 1, (1, -1, math.prod(self.kernel)))

    def forward(self, x: Tensor) -> Tensor:
        """Returns the two branches, mixed."""
        x = strided(x, self.stride)
        context = self.context(x)
        weight = self.kernels(x, context).to(context.dtype)
        values = self.value_norm(self.value(x)).to(context.dtype)
        found = local_sums(values, weight, SHARE, self.kernel, (1,) * self.rank, self.dilation)
        found = F.silu(self.norm(found))
        z = self.expand(F.relu(self.squeeze_norm(self.squeeze(self.pool(found + context)))))
        shares = unflatten(z, 1, (-1, RADIX)).transpose(1, 2).softmax(1).to(context.dtype)
        of_found = per_channel(shares[:, 0], self.rank)
        of_context = per_channel(shares[:, 1], self.rank)
        return found * of_found + context * of_context

    def extra_repr(self) -> str:
        """Returns what the parameters do not show."""
        return f"kernel={self.kernel}, stride={self.stride}"
