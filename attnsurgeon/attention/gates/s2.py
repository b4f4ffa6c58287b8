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

import torch
import torch.fx
from torch import Tensor, nn
from torch.nn import functional as F

from attnsurgeon.attention.identity import blend
from attnsurgeon.attention.layout import tokens, untoken
from attnsurgeon.attention.precision import wide, without_autocast
from attnsurgeon.attention.registry import mechanism
from attnsurgeon.errors import MechanismError

torch.fx.wrap("untoken")  # it decides by strides, which a trace does not know


def shift(z: Tensor, axis: int, *, forward: bool) -> Tensor:
    """Returns `z` moved by one place along an axis; the place that is left keeps its value."""
    last = z.shape[axis] - 1
    if forward:
        return torch.cat((z.narrow(axis, 0, 1), z.narrow(axis, 0, last)), dim=axis)
    return torch.cat((z.narrow(axis, 1, last), z.narrow(axis, last, 1)), dim=axis)


@torch.fx.wrap
def shifted(x: Tensor) -> Tensor:
    """Returns `x` (N, ..., (rank + 1) C), each copy but the last with its groups shifted.

    The first copy moves its groups of channels along the axes in order, forth and back; each
    further one begins with the next axis.
    """
    rank = x.dim() - 2
    axes, copies = tuple(range(1, rank + 1)), x.chunk(rank + 1, dim=-1)
    groups = []
    for turn, part in enumerate(copies[:-1]):
        order = axes[turn:] + axes[:turn]
        for place, group in enumerate(part.tensor_split(2 * rank, dim=-1)):
            groups.append(shift(group, order[place // 2], forward=place % 2 == 0))
    return torch.cat((*groups, copies[-1]), dim=-1)


@torch.fx.wrap
def joined(x: Tensor, squeeze: Tensor, expand: Tensor) -> Tensor:
    """Returns (N, ..., C): the copies in `x` added up, each channel with its share.

    The shares come from a sum over all positions, which is too large for half precision.
    """
    copies = x.unflatten(-1, (-1, squeeze.shape[1])).unbind(-2)
    axes = tuple(range(1, x.dim() - 1))
    with without_autocast(x):
        sums = x.sum(axes, keepdim=True, dtype=wide(x)).unflatten(-1, (len(copies), -1))
        total = sums.sum(-2)  # (N, 1, ..., C)
        hidden = F.gelu(F.linear(total, squeeze.to(total.dtype)))
        logits = F.linear(hidden, expand.to(total.dtype)).unflatten(-1, (len(copies), -1))
        shares = logits.softmax(-2).to(x.dtype).unbind(-2)  # (N, 1, ..., C) each
    y = copies[0] * shares[0]
    for copy, share in zip(copies[1:], shares[1:], strict=True):
        y = torch.addcmul(y, copy, share)
    return y


def count(channels: int, rank: int) -> int:
    """Returns the number of parameters."""
    copies = rank + 1
    return (2 * copies + 2) * channels**2 + (copies + 1) * channels


@mechanism(
    "s2",
    kind="gate",
    ranks=(2, 3),
    placement="residual-branch",
    formula="[3C^2 + 3C] + [C^2 + 3C^2] + [C^2 + C]; 4 for 3 at rank 3",
    count=count,
    identity=blend(),
    constraints=("C >= 4, or 6 at rank 3",),
    deviations=(
        "there is no code of the authors; a copy that circulates shifts in place over itself, "
        "which smears the first row or column over the whole map, and is fixed to C = 512",
        "it is the mixing layer of the authors' blocks, without the norm before it and the layers "
        "behind it",
        "the shares are computed in float32 also for half-precision values",
        "rank 3 is not the authors': three shifted copies, which begin with D, H and W, and a "
        "plain one; sixths of the channels for quarters",
    ),
    lighter="with 8C^2 parameters a site it is meant for narrow networks; at the last feature map "
    "alone (--where head) a ResNet-50 gets one instead of sixteen",
)
class S2(nn.Module):
    """Mixes channels and neighbouring positions; it replaces the value instead of scaling it.

    Args:
        channels: C.
        rank: 2 or 3.

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
        self.squeeze = nn.Linear(channels, channels, bias=False)
        self.share = nn.Linear(channels, (rank + 1) * channels, bias=False)
        self.project = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the shifted copies joined."""
        copies = shifted(self.expand(tokens(x)))  # (N, ..., 3C)
        y = joined(copies, self.squeeze.weight, self.share.weight)  # (N, ..., C)
        return untoken(self.project(y).to(x.dtype), x)
