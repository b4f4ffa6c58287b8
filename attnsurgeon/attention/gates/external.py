"""External attention: positions attend to two small memories that all images share.

    a = softmax over positions of M_k W_1 x
    a = a / sum over the memories of a
    y = x + batchnorm(W_2 M_v a), or relu of that

Guo et al., "Beyond Self-Attention: External Attention Using Two Linear Layers for Visual Tasks",
TPAMI 2022, https://arxiv.org/abs/2105.02358
"""

from __future__ import annotations

import math

import torch
import torch.fx
from torch import Tensor, nn
from torch.nn import functional as F

from attnsurgeon.attention.identity import Blend, Identity, native
from attnsurgeon.attention.norms import ONE_VALUE, BatchNorm
from attnsurgeon.attention.pictures import Picture, Seen
from attnsurgeon.attention.precision import wide, without_autocast
from attnsurgeon.attention.reading import read
from attnsurgeon.attention.registry import mechanism
from attnsurgeon.attention.shapes import unflatten

TINY = 1e-9


@torch.fx.wrap
def remembered(x: Tensor, keys: Tensor, bias: Tensor, values: Tensor) -> Tensor:
    """Returns (N, C, ...): the values by keys . x + bias, normalised over positions and entries."""
    flat = x.flatten(2)
    with without_autocast(x):
        scores = keys.to(wide(x)) @ flat.to(wide(x)) + bias.to(wide(x)).unsqueeze(1)  # (N, S, P)
        weights = scores.softmax(-1)
        weights = weights / (TINY + weights.sum(1, keepdim=True))
        found = values.to(weights.dtype) @ weights
    return unflatten(found.to(x.dtype), 2, x.shape[2:])


def start(module: nn.Module, replaced: nn.Module | None) -> nn.Module:
    """Keeps what is added at zero; a ReLU behind it changes a map with negative values."""
    assert isinstance(module, ExternalAttention)
    return Blend(module) if module.relu else _ADDS_NOTHING.start(module, replaced)


_ADDS_NOTHING = native("norm", how="")


def maps(seen: Seen) -> dict[str, Tensor]:
    """Returns where the memories look, on average, (N, ...)."""
    return {"attention": unflatten(seen.last("softmax").mean(1), 1, seen.values[0].shape[2:])}


def count(channels: int, memory: int) -> int:
    """Returns the number of parameters."""
    return 2 * channels * channels + channels + 2 * memory * channels + 2 * channels


@mechanism(
    "external",
    kind="gate",
    ranks=(1, 2, 3),
    placement="head",
    picture=Picture(("attention",), "where the memories look, on average; adds up to 1", maps),
    formula="2C^2 + C + 2SC + 2C",
    count=count,
    identity=Identity(
        "native",
        "the batch norm starts at zero, and nothing is added; with relu=True the whole is blended "
        "in: x + g * (y - x), learnable g = 0",
        start,
    ),
    limits=(
        "pruning: Torch-Pruning is still at work after ten seconds on a network of three blocks; "
        "prune within attnsurgeon.disabled(model), and let it ignore the layers before",
    ),
    deviations=(
        "the ReLU behind the authors' sum is left out, as a place may have negative values; "
        "relu=True has it",
        "the two memories are parameters of their own, as in the paper; the authors' code starts "
        "one as a view of the other, which ends where it is moved to a device",
        "two linear layers in a row are multiplied first, which is the same and less work",
        "the bias of W_1 adds the same to all scores of a softmax, so it cannot learn",
        "scores and softmax are computed in float32 also for half-precision values",
        "ranks 1 and 3 are not the authors': the positions are those of signal or clip",
        ONE_VALUE,
    ),
    inert=("query.bias",),
    spatial=False,
)
class ExternalAttention(nn.Module):
    """Adds to each position what it recalls of a memory that is learned, not made from the image.

    Args:
        channels: C.
        memory: S, how many entries the memory has.
        relu: whether a ReLU follows the sum, as in the authors' segmentation head.

    Shape:
        x (N, C, ...) -> (N, C, ...)
    """

    def __init__(self, channels: int, *, memory: int = 64, relu: bool = False) -> None:
        super().__init__()
        self.query = read(nn.Linear(channels, channels))
        self.keys = nn.Parameter(torch.empty(memory, channels))
        self.values = nn.Parameter(torch.empty(channels, memory))
        self.out = read(nn.Linear(channels, channels, bias=False))
        self.norm = BatchNorm(channels)
        self.relu = relu
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Starts as the authors' networks do."""
        for weight in (self.query.weight, self.keys, self.values, self.out.weight):
            nn.init.normal_(weight, std=math.sqrt(2 / weight.shape[0]))

    def forward(self, x: Tensor) -> Tensor:
        """Returns `x` plus what its positions recall."""
        keys, bias = self.keys @ self.query.weight, self.keys @ self.query.bias
        found = remembered(x, keys, bias, self.out.weight @ self.values)
        y = x + self.norm(found).to(x.dtype)
        return F.relu(y) if self.relu else y

    def extra_repr(self) -> str:
        """Returns whether a ReLU follows."""
        return f"relu={self.relu}"
