"""Spatial-shift attention: copies of the map, their channels shifted in turn, joined by weights.

    [x1, x2, x3] = W1 x + b1
    z1 = x1, its quarters of channels shifted by one place down, up, right and left
    z2 = x2, its quarters shifted right, left, down and up;  z3 = x3
    a = softmax over k of W3 gelu(W2 (sum of z_k over k and positions))
    y = W4 (sum over k of a_k * z_k) + b4

Yu et al., "S2-MLPv2: Improved Spatial-Shift MLP Architecture for Vision", arXiv 2021,
https://arxiv.org/abs/2108.01072
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.fx
from torch import Tensor, nn
from torch.nn import functional as F

from attnsurgeon.attention.gradients import applied
from attnsurgeon.attention.identity import blend
from attnsurgeon.attention.layout import tokens, untoken
from attnsurgeon.attention.pictures import Picture, Seen
from attnsurgeon.attention.precision import wide, without_autocast
from attnsurgeon.attention.reading import read
from attnsurgeon.attention.registry import mechanism
from attnsurgeon.attention.shapes import unflatten
from attnsurgeon.errors import MechanismError

torch.fx.wrap("untoken")  # it decides by strides, which a trace does not know


def shift(z: Tensor, into: Tensor, axis: int, *, forward: bool) -> None:
    """Writes `z` moved by one place along an axis; the place that is left keeps its value."""
    last = z.shape[axis] - 1
    start, left = (1, 0) if forward else (0, last)
    into.narrow(axis, start, last).copy_(z.narrow(axis, 1 - start, last))
    into.narrow(axis, left, 1).copy_(z.narrow(axis, left, 1))


def unshift(g: Tensor, into: Tensor, axis: int, *, forward: bool) -> None:
    """Writes the gradient of what was shifted: what went to two places gets the sum of both."""
    last = g.shape[axis] - 1
    start, left = (1, 0) if forward else (0, last)
    into.narrow(axis, last - left, 1).zero_()  # what was shifted out
    into.narrow(axis, 1 - start, last).copy_(g.narrow(axis, start, last))
    into.narrow(axis, left, 1).add_(g.narrow(axis, left, 1))


def moves(channels: int, rank: int) -> Iterator[tuple[int, int, int, bool]]:
    """Yields each group of channels, by start and length, with its axis and direction.

    The first of `rank` copies moves its groups along the axes in order, forth and back; each
    further one begins with the next axis.
    """
    size, rest = divmod(channels, 2 * rank)
    start = 0
    for copy in range(rank):
        for group in range(2 * rank):
            length = size + (group < rest)
            yield start, length, 1 + (copy + group // 2) % rank, group % 2 == 0
            start += length


def moved(x: Tensor, channels: int, move: Callable[..., None]) -> Tensor:
    """Returns `x` (N, ..., (rank + 1) C), the groups of each of its copies but the last moved."""
    rank, y = x.dim() - 2, torch.empty_like(x)
    for start, length, axis, forward in moves(channels, rank):
        group, into = (z.narrow(-1, start, length) for z in (x, y))
        move(group, into, axis, forward=forward)
    y.narrow(-1, rank * channels, channels).copy_(x.narrow(-1, rank * channels, channels))
    return y


def joined_again(x: Tensor, channels: int) -> Tensor:
    """Returns the same as by `shift`, made of slices."""
    rank = x.dim() - 2
    parts = []
    for start, length, axis, forward in moves(channels, rank):
        z = x.narrow(-1, start, length)
        last = z.shape[axis] - 1
        stays = z.narrow(axis, 0 if forward else last, 1)
        goes = z.narrow(axis, 0 if forward else 1, last)
        parts.append(torch.cat((stays, goes) if forward else (goes, stays), axis))
    return torch.cat((*parts, x.narrow(-1, rank * channels, channels)), -1)


class _Shifted(torch.autograd.Function):
    """The shifts, and their gradient, in one pass each; slices and cat make three of them."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, channels: int) -> Tensor:
        return moved(x, channels, shift)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, ctx.channels = inputs

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return moved(gradient, ctx.channels, unshift), None


@torch.fx.wrap
def shifted(x: Tensor, channels: int) -> Tensor:
    """Returns `x` (N, ..., (rank + 1) C), each copy but the last with its groups shifted."""
    return applied(_Shifted, x, channels, traced=joined_again)


@torch.fx.wrap
def joined(x: Tensor, squeeze: Tensor, expand: Tensor) -> Tensor:
    """Returns (N, ..., C): the copies in `x` added up, each channel with its share.

    The shares come from a sum over all positions, which is too large for half precision.
    """
    copies = unflatten(x, -1, (-1, squeeze.shape[1])).unbind(-2)
    axes = tuple(range(1, x.dim() - 1))
    with without_autocast(x):
        sums = unflatten(x.sum(axes, keepdim=True, dtype=wide(x)), -1, (len(copies), -1))
        total = sums.sum(-2)  # (N, 1, ..., C)
        hidden = F.gelu(F.linear(total, squeeze.to(total.dtype)))
        logits = unflatten(F.linear(hidden, expand.to(total.dtype)), -1, (len(copies), -1))
        shares = logits.softmax(-2).to(x.dtype).unbind(-2)  # (N, 1, ..., C) each
    y = copies[0] * shares[0]
    for copy, share in zip(copies[1:], shares[1:], strict=True):
        y = torch.addcmul(y, copy, share)
    return y


def shares(seen: Seen) -> dict[str, Tensor]:
    """Returns what the copies have in each channel, (N, rank + 1, C)."""
    copies, channels = seen.last("softmax").shape[-2:]
    return {"branches": seen.last("softmax").reshape(-1, copies, channels)}


def count(channels: int, rank: int) -> int:
    """Returns the number of parameters."""
    copies = rank + 1
    return (2 * copies + 2) * channels**2 + (copies + 1) * channels


@mechanism(
    "s2",
    kind="gate",
    ranks=(1, 2, 3),
    placement="residual-branch",
    picture=Picture(("branches",), "a, the shares of the copies, which add up to 1", shares),
    formula="[3C^2 + 3C] + [C^2 + 3C^2] + [C^2 + C]; 2 for 3 at rank 1, 4 at rank 3",
    count=count,
    identity=blend(),
    constraints=("C >= 4; 2 at rank 1, 6 at rank 3",),
    limits=(
        "pruning: Torch-Pruning is still at work after ten seconds on a network of three blocks; "
        "let it ignore this module",
    ),
    deviations=(
        "there is no code of the authors; a copy that circulates shifts in place over itself, "
        "which smears the first row or column over the whole map, and is fixed to C = 512",
        "it is the mixing layer of the authors' blocks, without the norm before it and the layers "
        "behind it",
        "the shares are computed in float32 also for half-precision values",
        "ranks 1 and 3 are not the authors': one shifted copy, whose halves move forth and back, "
        "and a plain one; or three shifted copies, which begin with D, H and W, and a plain "
        "one; sixths of the channels for quarters",
    ),
    lighter="with 8C^2 parameters a site it is meant for narrow networks; at the last feature map "
    "alone (the placement head) a ResNet-50 gets one instead of sixteen",
)
class S2(nn.Module):
    """Mixes channels and neighbouring positions; it replaces the value instead of scaling it.

    Args:
        channels: C.
        rank: 1, 2 or 3.

    Shape:
        x (N, C, ...) -> (N, C, ...)
    """

    def __init__(self, channels: int, *, rank: int = 2) -> None:
        super().__init__()
        if channels < 2 * rank:
            raise MechanismError(
                f"{channels} channels are not enough for {2 * rank} directions",
                f"it needs {2 * rank} at least",
            )
        self.expand = nn.Linear(channels, (rank + 1) * channels)
        self.squeeze = read(nn.Linear(channels, channels, bias=False))
        self.share = read(nn.Linear(channels, (rank + 1) * channels, bias=False))
        self.project = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the shifted copies joined."""
        copies = shifted(self.expand(tokens(x)), self.project.in_features)  # (N, ..., 3C)
        y = joined(copies, self.squeeze.weight, self.share.weight)  # (N, ..., C)
        return untoken(self.project(y).to(x.dtype), x)
