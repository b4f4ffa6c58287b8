"""Global context: what an image shows at the positions that matter is added to all positions.

    a = softmax over positions of v . x + c
    context = sum over positions of a * x
    y = x + W2 relu(layernorm(W1 context))

Cao et al., "GCNet: Non-Local Networks Meet Squeeze-Excitation Networks and Beyond",
ICCV Workshops 2019, https://arxiv.org/abs/1904.11492
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
import torch.fx
from torch import Tensor, nn
from torch.nn import functional as F

from attnsurgeon.attention.identity import Gate, native
from attnsurgeon.attention.pictures import Picture, Seen, gates_of
from attnsurgeon.attention.pooling import Mean, Pool
from attnsurgeon.attention.precision import wide, without_autocast
from attnsurgeon.attention.registry import mechanism
from attnsurgeon.attention.shapes import per_channel, positions, unflatten
from attnsurgeon.errors import MechanismError


@torch.fx.wrap
def gathered(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Returns (N, C): the mean over positions, weighed by the softmax of weight . x + bias."""
    flat = x.flatten(2)  # (N, C, P)
    with without_autocast(x):
        # A product a sample: torch.matmul would copy the map for a single one of all.
        v = weight.to(wide(x)).expand(x.shape[0], 1, -1)
        scores = torch.bmm(v, flat.to(wide(x))) + bias  # (N, 1, P)
        weights = scores.softmax(-1).to(x.dtype)
        return torch.bmm(flat, weights.transpose(-2, -1)).squeeze(2)


class Attended(Pool):
    """Each channel's mean over all positions, with weights that the positions earn themselves.

    Shape:
        x (N, C, ...) -> (N, C)
    """

    def __init__(self, channels: int, *, rank: int) -> None:
        super().__init__()
        self.axes = positions(rank)
        self.weight = nn.Parameter(torch.empty(1, channels))
        self.bias = nn.Parameter(torch.zeros(1))
        nn.init.kaiming_normal_(self.weight, nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Returns the weighed means."""
        return gathered(self.chosen(x), self.weight, self.bias)


class Transform(nn.Module):
    """The bottleneck that makes a term or a gate of the context.

    Shape:
        (N, C) -> (N, C)
    """

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, hidden)
        self.norm = nn.LayerNorm(hidden)
        self.fc2 = nn.Linear(hidden, channels)
        nn.init.zeros_(self.fc2.weight)
        nn.init.zeros_(self.fc2.bias)

    def forward(self, context: Tensor) -> Tensor:
        """Returns what the two layers make of it."""
        return self.fc2(F.relu(self.norm(self.fc1(context))))


def width(channels: int, reduction: int) -> int:
    """Returns C // reduction, of which a layer norm needs two."""
    if not 1 <= reduction <= channels // 2:
        raise MechanismError(
            f"reduction={reduction} leaves a layer norm fewer than two of {channels} channels, "
            "and one alone is always normalised to 0",
            f"the largest that works here is reduction={channels // 2}",
        )
    return channels // reduction


def looks(seen: Seen) -> Mapping[str, Tensor]:
    """Returns with which weights all look at the positions, and what a scale multiplies by."""
    found = gates_of(seen, ("channel",)) if seen.module.add is None else {}
    if isinstance(seen.module.pool, Attended):
        found["attention"] = unflatten(seen.last("softmax")[:, 0], -1, seen.values[0].shape[2:])
    return found


def count(channels: int, reduction: int, pool: str, fusion: str) -> int:
    """Returns the number of parameters."""
    m = width(channels, reduction)
    terms = 2 if fusion == "both" else 1
    return terms * (2 * channels * m + m + channels + 2 * m) + (pool == "attention") * (
        channels + 1
    )


@mechanism(
    "gc",
    kind="gate",
    ranks=(1, 2, 3),
    bottleneck=("add.fc1", "scale.fc1"),
    placement="later-block-branch",
    picture=Picture(
        ("attention",),
        "a, the same for whoever looks; with fusion='scale' also the gate of each channel",
        looks,
    ),
    formula="2C(C//r) + 3(C//r) + C, twice with fusion=both; + C + 1 with pool=attention",
    count=count,
    identity=native(how="fc2 starts at zero, as in the paper; the gate of a scale is 2 * sigmoid"),
    constraints=("C >= 2 * reduction",),
    deviations=(
        "reduction is 16; the authors' configurations have 4 as well",
        "softmax and scores are computed in float32 also for half-precision values",
        "the bias of the scores is kept to have the authors' parameters; it adds the same to all "
        "scores of a softmax, so it cannot learn",
        "timm's version scales (fusion='scale') with reduction 8 and adds on demand; its norm has "
        "an epsilon of 1e-6, the authors' and this one 1e-5",
    ),
    inert=("pool.bias",),
    spatial=False,
)
class GC(nn.Module):
    """Adds to every position the same vector, made from the context of the image.

    Args:
        channels: C.
        rank: 1, 2 or 3.
        reduction: r, by which the hidden layer is narrower.
        pool: attention or mean, how the context is gathered.
        fusion: add, scale (by a sigmoid gate of each channel) or both, the scale first.

    Shape:
        x (N, C, ...) -> (N, C, ...)
    """

    def __init__(
        self,
        channels: int,
        *,
        rank: int = 2,
        reduction: int = 16,
        pool: Literal["attention", "mean"] = "attention",
        fusion: Literal["add", "scale", "both"] = "add",
    ) -> None:
        super().__init__()
        m = width(channels, reduction)
        self.rank = rank
        self.pool = Attended(channels, rank=rank) if pool == "attention" else Mean(rank=rank)
        self.add = Transform(channels, m) if fusion != "scale" else None
        self.scale = Transform(channels, m) if fusion != "add" else None
        self.gate = Gate()

    def forward(self, x: Tensor) -> Tensor:
        """Returns `x`, scaled and with the context added, each where the fusion has it."""
        context = self.pool(x)  # (N, C)
        y = x
        if self.scale is not None:
            y = y * per_channel(self.gate(self.scale(context)).to(x.dtype), self.rank)
        if self.add is not None:
            y = y + per_channel(self.add(context).to(x.dtype), self.rank)
        return y
