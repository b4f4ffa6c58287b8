"""Simple parameter-free attention: positions that stand out in their channel are kept.

    d = (x - mean(x))^2
    y = x * sigmoid(d / (4 * (sum(d) / (n - 1) + lambda)) + 1/2), n positions

Yang et al., "SimAM: A Simple, Parameter-Free Attention Module for Convolutional Neural Networks",
ICML 2021, https://proceedings.mlr.press/v139/yang21o.html
"""

from __future__ import annotations

import torch
import torch.fx
from torch import Tensor, nn

from attnsurgeon.attention.identity import blend
from attnsurgeon.attention.pictures import multiplied
from attnsurgeon.attention.registry import mechanism
from attnsurgeon.attention.shapes import extent, freedom, positions
from attnsurgeon.errors import MechanismError


@torch.fx.wrap
def salience(x: Tensor, axes: tuple[int, ...], e_lambda: float) -> Tensor:
    """Returns the gate, in float32 at least: squared half-precision values overflow."""
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    n = extent(x, axes)
    d = (x - x.sum(axes, keepdim=True) * (1 / n)).square()
    scale = (d.sum(axes, keepdim=True) * (4 / freedom(n)) + 4 * e_lambda).reciprocal()
    return (d * scale).add_(0.5).sigmoid_()  # in place: neither needs its input for the backward


@mechanism(
    "simam",
    kind="gate",
    ranks=(1, 2, 3),
    placement="block-conv",
    picture=multiplied("both", how="the gate of each value"),
    formula="0",
    count=lambda channels: 0,
    identity=blend(),
    constraints=("e_lambda > 0",),
    deviations=(
        "e_lambda is 0.0001, the default of the authors' module; their ImageNet runs set 0.1",
        "a map of one position has d = 0, where the authors' code divides by n - 1 = 0",
        "the gate is computed in float32 also for half-precision values",
    ),
    spatial=False,
)
class SimAM(nn.Module):
    """Reweights each value by how far it lies from the mean of its channel.

    Args:
        channels: C; there is no parameter, so it only has to be given.
        rank: 1, 2 or 3.
        e_lambda: lambda, which bounds the gate of a channel that hardly varies.

    Shape:
        x (N, C, ...) -> (N, C, ...)
    """

    def __init__(self, channels: int, *, rank: int = 2, e_lambda: float = 1e-4) -> None:
        super().__init__()
        if e_lambda <= 0:
            raise MechanismError(
                f"e_lambda={e_lambda} makes a constant channel 0 / 0", "use e_lambda=0.0001"
            )
        self.axes = positions(rank)
        self.e_lambda = e_lambda

    def forward(self, x: Tensor) -> Tensor:
        """Returns `x` times the salience of each value."""
        return x * salience(x, self.axes, self.e_lambda).to(x.dtype)

    def extra_repr(self) -> str:
        """Returns the only thing that tells two of them apart."""
        return f"e_lambda={self.e_lambda:g}"
