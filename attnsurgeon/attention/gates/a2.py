"""Double attention: an image is gathered into a few vectors, which are handed out to positions.

    G = sum over positions i of A x_i * softmax over i of (B x)_i      m x n
    z_i = G softmax over the n of (V x)_i
    y_i = x_i + W z_i

Chen et al., "A^2-Nets: Double Attention Networks", NeurIPS 2018, https://arxiv.org/abs/1810.11579
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.fx
from torch import Tensor, nn

from attnsurgeon.attention.checks import hidden_width
from attnsurgeon.attention.identity import native
from attnsurgeon.attention.pictures import Picture, Seen
from attnsurgeon.attention.precision import wide
from attnsurgeon.attention.registry import mechanism
from attnsurgeon.attention.shapes import CONV, unflatten

AXES = {"vectors": 1, "positions": 2}


@torch.fx.wrap
def shares(scores: Tensor, axis: int) -> Tensor:
    """Returns the softmax of (N, n, ...) along an axis, all positions being one, (N, n, P)."""
    flat = scores.flatten(2)
    return flat.to(wide(flat)).softmax(axis).to(flat.dtype)


@torch.fx.wrap
def gathered(x: Tensor, weights: Tensor) -> Tensor:
    """Returns (N, m, n): sums of `x` over positions by each of n maps of weights (N, n, P)."""
    return x.flatten(2) @ weights.transpose(1, 2).to(x.dtype)


@torch.fx.wrap
def handed_out(vectors: Tensor, weights: Tensor, like: Tensor) -> Tensor:
    """Returns (N, m, ...): of n vectors (N, m, n) those that each position takes."""
    return unflatten(vectors @ weights.to(vectors.dtype), 2, like.shape[2:])


def maps(seen: Seen) -> dict[str, Tensor]:
    """Returns where each position's vectors come from, on average over the vectors, (N, ...)."""
    gathers = seen.results["softmax"][0]
    return {"attention": unflatten(gathers.mean(1), 1, seen.values[0].shape[2:])}


def count(channels: int, reduction: int) -> int:
    """Returns the number of parameters."""
    m = hidden_width(channels, reduction)
    return 3 * (channels * m + m) + m * channels + channels


@mechanism(
    "a2",
    kind="gate",
    ranks=(1, 2, 3),
    placement="middle-block",
    picture=Picture(
        ("attention",), "where the n vectors are gathered, on average; adds up to 1", maps
    ),
    formula="4Cm + 3m + C, m = n = C//r",
    count=count,
    identity=native("out", how="W starts at zero, and nothing is added"),
    constraints=("C >= reduction",),
    deviations=(
        "its authors have published no code: the equation is the paper's, where each position "
        "takes shares of the vectors that add up to 1, and compared with a third party's; copies "
        "in circulation take that softmax over positions (over=positions) or even over images",
        "the authors put it behind some blocks of the two middle stages; the placement takes "
        "every block there, and rules take fewer",
        "the bias of B adds the same to all scores of a softmax, so it cannot learn; with "
        "over=positions that of V neither",
    ),
    inert=("gather.bias",),
    spatial=False,
)
class DoubleAttention(nn.Module):
    """Adds to each position what it takes of vectors that were gathered from all positions.

    Args:
        channels: C.
        rank: 1, 2 or 3.
        reduction: r, by which vectors are shorter than C, and fewer.
        over: vectors or positions, what the second softmax runs over.

    Shape:
        x (N, C, ...) -> (N, C, ...)
    """

    def __init__(
        self,
        channels: int,
        *,
        rank: int = 2,
        reduction: int = 2,
        over: Literal["vectors", "positions"] = "vectors",
    ) -> None:
        super().__init__()
        m = hidden_width(channels, reduction)
        self.axis = AXES[over]
        self.feature = CONV[rank](channels, m, 1)
        self.gather = CONV[rank](channels, m, 1)
        self.distribute = CONV[rank](channels, m, 1)
        self.out = CONV[rank](m, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Returns `x` plus what its positions take."""
        vectors = gathered(self.feature(x), shares(self.gather(x), 2))  # (N, m, n)
        taken = shares(self.distribute(x), self.axis)  # (N, n, P)
        return x + self.out(handed_out(vectors, taken, x)).to(x.dtype)
