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
from attnsurgeon.attention.precision import wide, without_autocast
from attnsurgeon.attention.registry import mechanism
from attnsurgeon.attention.shapes import per_channel, positions
from attnsurgeon.errors import MechanismError


def shift(z: Tensor, axis: int, *, forward: bool) -> Tensor:
    """Returns `z` moved by one place along an axis; the place that is left keeps its value."""
    last = z.shape[axis] - 1
    if forward:
        return torch.cat((z.narrow(axis, 0, 1), z.narrow(axis, 0, last)), dim=axis)
    return torch.cat((z.narrow(axis, 1, last), z.narrow(axis, last, 1)), dim=axis)


@torch.fx.wrap
def shifted(x: Tensor, rank: int) -> Tensor:
    """Returns `x` (N, (rank + 1) C, ...), each copy but the last with its groups shifted.

    The first copy moves its groups of channels along the axes in order, forth and back; each
    further one begins with the next axis.
    """
    axes, copies = positions(rank), x.chunk(rank + 1, dim=1)
    groups = []
    for turn, part in enumerate(copies[:-1]):
        order = axes[turn:] + axes[:turn]
        for place, group in enumerate(part.tensor_split(2 * rank, dim=1)):
            groups.append(shift(group, order[place // 2], forward=place % 2 == 0))
    return torch.cat((*groups, copies[-1]), dim=1)


@torch.fx.wrap
def shares(x: Tensor, squeeze: Tensor, expand: Tensor) -> Tensor:
    """Returns (N, K C): how much each of the K copies counts, in float32 at least.

    A sum over all positions is large, and its softmax is all or nothing in half precision.
    """
    copies = expand.shape[0] // expand.shape[1]
    with without_autocast(x):
        total = x.sum(positions(x.dim() - 2), dtype=wide(x)).unflatten(1, (copies, -1)).sum(1)
        hidden = F.gelu(F.linear(total, squeeze.to(total.dtype)))
        logits = F.linear(hidden, expand.to(total.dtype)).unflatten(1, (copies, -1))
        return logits.softmax(1).flatten(1).to(x.dtype)


@torch.fx.wrap
def joined(x: Tensor, weights: Tensor, rank: int) -> Tensor:
    """Returns (N, C, ...): the copies in `x`, each channel times its weight, added up."""
    weights = per_channel(weights, rank)
    first, *others = zip(x.chunk(rank + 1, dim=1), weights.chunk(rank + 1, dim=1), strict=True)
    total = first[0] * first[1]
    for copy, weight in others:
        total = torch.addcmul(total, copy, weight)
    return total


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
        self.rank = rank
        self.expand = nn.Conv2d(channels, (rank + 1) * channels, 1)
        self.squeeze = nn.Linear(channels, channels, bias=False)
        self.share = nn.Linear(channels, (rank + 1) * channels, bias=False)
        self.project = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the shifted copies joined."""
        # Clips go through the 1x1 convolutions as images of (D, H W): Conv3d may change their layout.
        copies = self.expand(x.flatten(3)).unflatten(3, x.shape[3:])
        copies = shifted(copies, self.rank)  # (N, 3C, ...)
        weights = shares(copies, self.squeeze.weight, self.share.weight)  # (N, 3C)
        y = joined(copies, weights, self.rank)
        return self.project(y.flatten(3)).unflatten(3, x.shape[3:]).to(x.dtype)
