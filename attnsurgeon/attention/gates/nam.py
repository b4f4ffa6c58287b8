"""Normalization-based attention: the weights of a batch norm say how much each channel counts.

    w = |gamma| / sum(|gamma|), gamma the weights of the batch norm
    y = x * sigmoid(w * batchnorm(x))

Liu et al., "NAM: Normalization-based Attention Module", NeurIPS Workshops 2021,
https://arxiv.org/abs/2111.12419
"""

from __future__ import annotations

import math

import torch
import torch.fx
from torch import Tensor, nn
from torch.func import functional_call

from attnsurgeon.attention.checks import map_size
from attnsurgeon.attention.gradients import jit_traces
from attnsurgeon.attention.identity import blend
from attnsurgeon.attention.norms import ONE_VALUE, BatchNorm
from attnsurgeon.attention.pictures import Picture, Seen, gates_of
from attnsurgeon.attention.registry import mechanism
from attnsurgeon.attention.resampling import pool_to, spread_to
from attnsurgeon.attention.shapes import unflatten


@torch.fx.wrap
def weighed(norm: BatchNorm, x: Tensor) -> Tensor:
    """Returns w * norm(x) at the price of norm(x): w is multiplied into the norm's weights."""
    size = norm.weight.detach().abs()
    w = size / size.sum().clamp_min(torch.finfo(size.dtype).tiny)  # all zero: none counts
    if jit_traces():  # in which torch lets no module be called with other weights
        return norm(x) * w.reshape(-1, *[1] * (x.dim() - 2))
    return functional_call(norm, {"weight": norm.weight * w, "bias": norm.bias * w}, (x,))


@torch.fx.wrap
def by_channel(norm: BatchNorm, x: Tensor) -> Tensor:
    """Returns the gate of each value; in place is one step for torch.fx, and none it could undo."""
    return weighed(norm, x).sigmoid_()


@torch.fx.wrap
def by_position(norm: BatchNorm, x: Tensor, size: tuple[int, ...]) -> Tensor:
    """Returns the gate that the positions of `x`, pooled to the size of the weights, make."""
    z = weighed(norm, pool_to(x, size).flatten(2).transpose(-2, -1))  # (N, HW, C)
    return spread_to(unflatten(z.sigmoid_().transpose(-2, -1), 2, size), x)


class PositionGate(nn.Module):
    """The same attention with positions in the place of channels.

    Shape:
        x (N, C, ...) -> (N, C, ...)
    """

    def __init__(self, size: tuple[int, ...]) -> None:
        super().__init__()
        self.size = size
        self.norm = BatchNorm(math.prod(size))

    def forward(self, x: Tensor) -> Tensor:
        """Returns `x` times its gates."""
        return x * by_position(self.norm, x, self.size)


def gates_and_weights(seen: Seen) -> dict[str, Tensor]:
    """Returns the gate of each value, and w (C,)."""
    size = seen.module.norm.weight.detach().abs()
    w = size / size.sum().clamp_min(torch.finfo(size.dtype).tiny)
    return {**gates_of(seen, ("both",)), "weights": w}


def count(channels: int, rank: int, spatial: bool, size: tuple[int, ...] | None) -> int:
    """Returns the number of parameters."""
    return 2 * channels + (2 * math.prod(map_size(size, rank)) if spatial else 0)


@mechanism(
    "nam",
    kind="gate",
    ranks=(1, 2, 3),
    placement="block-branch",
    picture=Picture(
        ("both", "weights"), "the gate of each value, and w of each channel", gates_and_weights
    ),
    formula="2C; 2C + 2HW with spatial=True, 2C + 2L at rank 1, 2C + 2DHW at rank 3",
    count=count,
    identity=blend(),
    constraints=("spatial=True needs size=(H, W), which a plan takes from the site",),
    limits=(
        "PT2E int8: it reads the weight of a batch norm, which torchao takes for one to be folded "
        "into a convolution",
    ),
    deviations=(
        "as in the authors' code, w carries no gradient: gamma learns through the batch norm only",
        "the paper's spatial branch, a batch norm over positions, is not in the authors' code; "
        "spatial=True adds it after the channel gate, as they describe it; a map of another size "
        "is pooled to the size it was built for, and the gate interpolated back",
        "where gamma is zero throughout, w is zero; the authors' code divides by zero",
        "the authors add a penalty on |gamma| to the loss of their training, which is not part of "
        "the network",
        "ranks 1 and 3 are not the authors'",
        ONE_VALUE,
    ),
    spatial=False,
    site_args=lambda size, spatial: {"size": size} if spatial else {},
)
class NAM(nn.Module):
    """Reweights each value by itself, normalised, times the weight of its channel.

    Args:
        channels: C.
        rank: 1, 2 or 3.
        spatial: whether to do the same once more with positions in the place of channels.
        size: the map's (H, W), for the weights of the positions.

    Shape:
        x (N, C, ...) -> (N, C, ...)
    """

    def __init__(
        self,
        channels: int,
        *,
        rank: int = 2,
        spatial: bool = False,
        size: tuple[int, ...] | None = None,
    ) -> None:
        super().__init__()
        self.norm = BatchNorm(channels)
        self.positions = PositionGate(map_size(size, rank)) if spatial else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Returns `x` times its gates."""
        return self.positions(x * by_channel(self.norm, x))
