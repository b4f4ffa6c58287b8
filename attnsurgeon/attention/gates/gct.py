"""Gated channel transformation: channels compete or cooperate by their norms, three weights each.

    s = alpha * sqrt(sum of x^2 over positions + e)
    n = s / sqrt(mean of s^2 over channels + e)
    y = x * (1 + tanh(gamma * n + beta))

Yang et al., "Gated Channel Transformation for Visual Recognition", CVPR 2020,
https://arxiv.org/abs/1909.11519
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.fx
from torch import Tensor, nn

from attnsurgeon.attention.gradients import applied
from attnsurgeon.attention.identity import native
from attnsurgeon.attention.pictures import multiplied
from attnsurgeon.attention.pooling import Pool
from attnsurgeon.attention.precision import wide
from attnsurgeon.attention.registry import mechanism
from attnsurgeon.attention.shapes import per_channel, positions
from attnsurgeon.errors import MechanismError


class _Squares(torch.autograd.Function):
    """The sum of squares over positions, in one pass forward and one back."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return torch.linalg.vector_norm(x.flatten(2), dim=2).square()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, by_sum: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return x * per_channel(2 * by_sum, x.dim() - 2)


@torch.fx.wrap
def size_of(x: Tensor, axes: tuple[int, ...], norm: str, epsilon: float) -> Tensor:
    """Returns each channel's norm over `axes`, in float32 at least: squares overflow in half."""
    x = x.to(wide(x))
    return x.abs().sum(axes) if norm == "l1" else (applied(_Squares, x) + epsilon).sqrt()


@torch.fx.wrap
def competing(s: Tensor, norm: str, epsilon: float) -> Tensor:
    """Returns `s` (N, C) over its norm, that of all channels taken as a mean."""
    if norm == "l1":
        return s / (s.abs().mean(1, keepdim=True) + epsilon)
    return s * (s.square().mean(1, keepdim=True) + epsilon).rsqrt()


class Sizes(Pool):
    """The norm of each channel over all positions, in float32 at least.

    Shape:
        x (N, C, ...) -> (N, C)
    """

    def __init__(self, *, rank: int, norm: str, epsilon: float) -> None:
        super().__init__()
        self.axes = positions(rank)
        self.norm = norm
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        """Returns the norms."""
        return size_of(self.chosen(x), self.axes, self.norm, self.epsilon)


@mechanism(
    "gct",
    kind="gate",
    ranks=(1, 2, 3),
    placement="before-conv",
    picture=multiplied("channel", how="1 + tanh, the gate of each channel"),
    formula="3C",
    count=lambda channels: 3 * channels,
    identity=native(how="gamma and beta start at zero, as in the paper"),
    constraints=("epsilon > 0",),
    limits=(
        "pruning: its parameters, a number for each channel, are of no layer, and a pruner "
        "leaves them as long as they were; let it ignore the layer before",
    ),
    deviations=(
        "the norm is of sums over positions, as in the authors' code, so that it grows with the "
        "map; the normalisation over channels takes that out again, but for epsilon",
        "the authors' code takes a value behind a ReLU for its own absolute value in the l1 form; "
        "here the absolute value is always taken, which is the same there",
        "in a ResNet-50 the authors' code has one before each of the 53 convolutions, also of the "
        "stem and the shortcuts; one a block costs 0.1 to 0.2 % of accuracy, they say",
        "norm and gate are computed in float32 also for half-precision values",
        "the authors decay no beta; groups of parameters without decay are the trainer's",
    ),
    spatial=False,
)
class GCT(nn.Module):
    """Reweights each channel by how large it is beside the others.

    Args:
        channels: C.
        rank: 1, 2 or 3.
        norm: l2 or l1, of the positions and of the channels.
        epsilon: e, which bounds both norms from below.

    Shape:
        x (N, C, ...) -> (N, C, ...)
    """

    def __init__(
        self,
        channels: int,
        *,
        rank: int = 2,
        norm: Literal["l2", "l1"] = "l2",
        epsilon: float = 1e-5,
    ) -> None:
        super().__init__()
        if epsilon <= 0:
            raise MechanismError(f"epsilon={epsilon} divides 0 by 0", "use epsilon=0.00001")
        self.rank = rank
        self.norm = norm
        self.epsilon = epsilon
        self.sizes = Sizes(rank=rank, norm=norm, epsilon=epsilon)
        self.alpha = nn.Parameter(torch.ones(channels))
        self.gamma = nn.Parameter(torch.zeros(channels))
        self.beta = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Returns `x` times its channel gates."""
        beside = competing(self.alpha * self.sizes(x), self.norm, self.epsilon)  # (N, C)
        gate = (1 + torch.tanh(self.gamma * beside + self.beta)).to(x.dtype)
        return x * per_channel(gate, self.rank)

    def extra_repr(self) -> str:
        """Returns what no submodule shows."""
        return f"norm={self.norm}, epsilon={self.epsilon:g}"
