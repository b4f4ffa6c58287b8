"""Spatial pyramid attention: channel gates from means over 1, 2 x 2 and 4 x 4 windows.

    z = [means of x over p x p windows, for p = 1, 2, 4]
    y = x * sigmoid(W2 relu(W1 z))

In variant B it is the block's input whose means are z, and in variant C that input after
relu(batchnorm(W0 input)) where it has other channels than x.

Guo et al., "SPANet: Spatial Pyramid Attention Network for Enhanced Image Recognition",
ICME 2020, https://github.com/13952522076/SPANet
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.fx
from torch import Tensor, nn
from torch.nn import functional as F

from attnsurgeon.attention.checks import hidden_width
from attnsurgeon.attention.gradients import applied
from attnsurgeon.attention.identity import Gate, native
from attnsurgeon.attention.norms import ONE_VALUE, BatchNorm
from attnsurgeon.attention.pictures import multiplied
from attnsurgeon.attention.registry import mechanism
from attnsurgeon.attention.resampling import adaptive, product
from attnsurgeon.attention.shapes import CONV, per_channel, unflatten
from attnsurgeon.errors import MechanismError

Variant = Literal["A", "B", "C"]


def windows(size: tuple[int, ...], parts: int, like: Tensor) -> Tensor:
    """Returns (parts^rank, H W): the means over all windows of a map cut into `parts` an axis."""
    matrix = torch.ones(1, 1, dtype=like.dtype, device=like.device)
    for side in size:
        matrix = matrix[:, None, :, None] * adaptive(side, parts, like)[:, None]
        matrix = matrix.flatten(0, 1).flatten(1)
    return matrix


class _Pyramid(torch.autograd.Function):
    """x (N, C, ...) -> (N, C, F): the means of every scale, in one pass over x.

    The matrix is made again for the backward: it may be larger than everything else kept for it.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, pools: tuple[int, ...]) -> Tensor:
        matrix = torch.cat([windows(x.shape[2:], parts, x) for parts in pools])
        return product(x.flatten(2), matrix)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, tuple[int, ...]], output: Tensor) -> None:
        x, ctx.pools = inputs
        ctx.size = x.shape[2:]

    @staticmethod
    def backward(ctx: Any, by_means: Tensor) -> tuple[Tensor, None]:
        matrix = torch.cat([windows(ctx.size, parts, by_means) for parts in ctx.pools])
        return unflatten(product(by_means, matrix.transpose(-2, -1)), 2, ctx.size), None


@torch.fx.wrap
def pyramid(x: Tensor, pools: tuple[int, ...]) -> Tensor:
    """Returns the means over every scale's windows (N, F C), those of one scale by channel."""
    means = applied(_Pyramid, x, pools).split([parts ** (x.dim() - 2) for parts in pools], dim=2)
    return torch.cat([scale.flatten(1) for scale in means], dim=1)


def features(pools: tuple[int, ...], rank: int) -> int:
    """Returns how many means a channel has."""
    return sum(parts**rank for parts in pools)


def seen_channels(channels: int, variant: Variant, source_channels: int | None) -> int:
    """Returns how many channels the means are taken of."""
    return source_channels or channels if variant == "B" else channels


def count(
    channels: int,
    rank: int,
    reduction: int,
    pools: tuple[int, ...],
    variant: Variant,
    source_channels: int | None,
) -> int:
    """Returns the number of parameters."""
    seen = seen_channels(channels, variant, source_channels)
    source = source_channels or channels
    project = source * channels + 2 * channels if variant == "C" and source != channels else 0
    return (features(pools, rank) * seen + channels) * hidden_width(seen, reduction) + project


def takes(variant: Variant) -> tuple[str, ...]:
    """Returns what `forward` is handed."""
    return ("value",) if variant == "A" else ("value", "source")


def site_args(variant: Variant, source_channels: int | None) -> dict[str, int | None]:
    """Returns the channels of the block's input for the variants that look at it."""
    return {} if variant == "A" else {"source_channels": source_channels}


@mechanism(
    "spa",
    kind="gate",
    ranks=(1, 2, 3),
    bottleneck=("fc1",),
    placement="block-branch",
    picture=multiplied("channel", how="the gate of each channel"),
    formula="(1 + 1^2 + 2^2 + 4^2) C(C//r); 1^3 + 2^3 + 4^3 at rank 3, 1 + 2 + 4 at rank 1; where "
    "the block's input has S channels: B (21S + C)(S//r), C SC + 2C more",
    count=count,
    identity=native("fc2", how="fc2 starts at zero and the gate is 2 * sigmoid, so it starts at 1"),
    constraints=("C >= reduction",),
    deviations=(
        "variant is A, whose gate is computed from the branch itself; B and C compute it from the "
        "block's input, B with a hidden layer of S//r for the S channels that it has, C after a "
        "projection to C channels where S is not C, as in the authors' code",
        "it is heavy: 27.7 million parameters in a ResNet-50, more than the network itself has",
        "the authors' networks are for small images only; the placement is that of these",
        "ranks 1 and 3 are not the authors': windows are spans, or boxes",
        ONE_VALUE,
    ),
    lighter="reduction=64 needs a quarter of the parameters, and pools=(1, 2) a quarter as well",
    site_args=site_args,
    takes=takes,
)
class SPA(nn.Module):
    """Reweights each channel by a gate computed from its means at several scales.

    Args:
        channels: C.
        rank: 1, 2 or 3.
        reduction: r, by which the hidden layer is narrower than C.
        pools: into how many windows each axis is cut, one number for each scale.
        variant: "A", or "B" or "C" for a gate computed from the block's input.
        source_channels: S, the channels of the block's input; None for C.

    Shape:
        x (N, C, ...), for B and C also source (N, S, ...) of any size -> (N, C, ...)
    """

    def __init__(
        self,
        channels: int,
        *,
        rank: int = 2,
        reduction: int = 16,
        pools: tuple[int, ...] = (1, 2, 4),
        variant: Variant = "A",
        source_channels: int | None = None,
    ) -> None:
        super().__init__()
        seen = seen_channels(channels, variant, source_channels)
        m = hidden_width(seen, reduction)
        self.rank = rank
        self.pools = tuple(pools)
        self.variant = variant
        source = source_channels or channels
        self.project: nn.Module | None = None
        if variant == "C" and source != channels:
            conv = CONV[rank](source, channels, 1, bias=False)
            self.project = nn.Sequential(conv, BatchNorm(channels), nn.ReLU())
        self.fc1 = nn.Linear(seen * features(self.pools, rank), m, bias=False)
        self.fc2 = nn.Linear(m, channels, bias=False)
        self.gate = Gate()

    def forward(self, x: Tensor, source: Tensor | None = None) -> Tensor:
        """Returns `x` times its channel gates, which B and C compute from `source`."""
        # Not whether `source` is given decides: a trace gives one to A too.
        seen = x if self.variant == "A" else source
        if seen is None:
            raise MechanismError(
                f"variant {self.variant} looks at the block's input", "call it with x and source"
            )
        if self.project is not None:
            seen = self.project(seen)
        gate = self.gate(self.fc2(F.relu(self.fc1(pyramid(seen, self.pools)))))  # (N, C)
        return x * per_channel(gate, self.rank)

    def extra_repr(self) -> str:
        """Returns the scales and the variant."""
        return f"pools={self.pools}, variant={self.variant}"
