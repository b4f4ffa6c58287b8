"""Mixed local channel attention: ECA of the whole map and of its windows, mixed.

    l = means over 5 x 5 windows, g = mean of l
    gate = (1 - w) sigmoid(conv1d(g)) + w sigmoid(conv1d'(l)), spread over the map
    y = x * gate

Wan et al., "Mixed local channel attention for object detection", Engineering Applications of
Artificial Intelligence 2023, https://doi.org/10.1016/j.engappai.2023.106442
"""

from __future__ import annotations

import torch
import torch.fx
from torch import Tensor, nn

from attnsurgeon.attention.checks import odd_kernel
from attnsurgeon.attention.gates.eca import adaptive_kernel
from attnsurgeon.attention.identity import Gate, native
from attnsurgeon.attention.pictures import multiplied
from attnsurgeon.attention.registry import mechanism
from attnsurgeon.attention.resampling import pool_to
from attnsurgeon.attention.shapes import per_channel, unflatten
from attnsurgeon.errors import MechanismError


@torch.fx.wrap
def windows(x: Tensor, size: tuple[int, ...]) -> Tensor:
    """Returns `x` (N, C, ...) averaged to a number of windows along each axis."""
    return pool_to(x, size)


@torch.fx.wrap
def spread(gate: Tensor, like: Tensor) -> Tensor:
    """Returns the gate averaged to the size of a map; one of ones stays so to the bit."""
    return 1 + pool_to(gate - 1, tuple(like.shape[2:]))


def count(channels: int, kernel_size: int | None) -> int:
    """Returns the number of parameters."""
    return 2 * (kernel_size or adaptive_kernel(channels))


@mechanism(
    "mlca",
    kind="gate",
    ranks=(1, 2, 3),
    placement="block-branch",
    picture=multiplied("both", how="the gate of each channel in each window"),
    formula="2k",
    count=count,
    identity=native(
        "conv", "local", how="both convolutions start at zero and the gates are 2 * sigmoid"
    ),
    constraints=("kernel_size is odd", "0 <= weight <= 1"),
    limits=(
        "pruning: Torch-Pruning is still at work after ten seconds on a network of three blocks; "
        "prune within attnsurgeon.disabled(model), and let it ignore the layers before",
    ),
    deviations=(
        "as in the authors' code, the convolution over the channels of a window runs on into the "
        "next window's, and a map smaller than the windows has each value in several",
        "what that code prints on the way is left out",
        "ranks 1 and 3 are not the authors': there are as many windows along every axis",
    ),
)
class MLCA(nn.Module):
    """Reweights each channel, in each window of the map, by its neighbours among the channels.

    Args:
        channels: C.
        rank: 1, 2 or 3.
        windows: how many along each axis.
        kernel_size: k, odd; None for the choice by C.
        weight: w, the share of the windows in the gate.

    Shape:
        x (N, C, ...) -> (N, C, ...)
    """

    def __init__(
        self,
        channels: int,
        *,
        rank: int = 2,
        windows: int = 5,
        kernel_size: int | None = None,
        weight: float = 0.5,
    ) -> None:
        super().__init__()
        if not 0 <= weight <= 1:
            raise MechanismError(f"weight={weight:g} is no share", "use weight=0.5")
        k = odd_kernel(kernel_size or adaptive_kernel(channels))
        self.rank = rank
        self.size = (windows,) * rank
        self.weight = float(weight)
        self.conv = nn.Conv1d(1, 1, k, padding=k // 2, bias=False)
        self.local = nn.Conv1d(1, 1, k, padding=k // 2, bias=False)
        self.gate = Gate()

    def forward(self, x: Tensor) -> Tensor:
        """Returns `x` times its gates."""
        local = windows(x, self.size)
        rows = local.flatten(2).transpose(1, 2)  # (N, windows, C)
        whole = self.gate(self.conv(rows.mean(1, keepdim=True)).squeeze(1))  # (N, C)
        parts = self.local(rows.flatten(1).unsqueeze(1)).squeeze(1)
        parts = self.gate(unflatten(parts, 1, (-1, x.shape[1]))).transpose(1, 2)
        parts = unflatten(parts, 2, self.size)
        mixed = torch.lerp(per_channel(whole, self.rank).expand_as(parts), parts, self.weight)
        return x * spread(mixed, x).to(x.dtype)

    def extra_repr(self) -> str:
        """Returns what the parameters do not show."""
        return f"windows={self.size}, weight={self.weight:g}"
