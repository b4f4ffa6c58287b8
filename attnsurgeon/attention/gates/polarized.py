"""Polarized self-attention: a channel gate from attended positions, a position gate from channels.

    c = sum over i of W_v x_i softmax over i of w_q . x_i
    p_i = mean(W_q' x) . W_v' x_i
    y_i = x_i * (sigmoid(W_u c) + sigmoid(softmax over i of p_i))                 parallel
    z = x * sigmoid(W_u relu(layernorm(W_d c)))                                   sequential
    y_i = z_i * sigmoid(mean(W_q' z) . (softmax over i of W_v' z)_i)

Liu et al., "Polarized Self-Attention: Towards High-quality Pixel-wise Regression",
Neurocomputing 2022, https://arxiv.org/abs/2107.00782
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
import torch.fx
from torch import Tensor, nn
from torch.nn import functional as F

from attnsurgeon.attention.identity import blend
from attnsurgeon.attention.pictures import Picture, Seen, gates_of
from attnsurgeon.attention.pooling import mean
from attnsurgeon.attention.precision import wide, without_autocast
from attnsurgeon.attention.reading import read
from attnsurgeon.attention.registry import mechanism
from attnsurgeon.attention.shapes import per_channel, positions, unflatten
from attnsurgeon.errors import MechanismError

Form = Literal["parallel", "sequential"]
torch.fx.wrap("mean")
RATIO = 4  # by which the sequential form's bottleneck is narrower than C / 2


@torch.fx.wrap
def attended(x: Tensor, query: Tensor) -> Tensor:
    """Returns (N, C): the mean over positions, weighed by the softmax of query . x."""
    flat = x.flatten(2)
    with without_autocast(x):
        q = query.to(wide(x)).expand(x.shape[0], 1, -1)
        weights = torch.bmm(q, flat.to(wide(x))).softmax(-1)  # (N, 1, P)
        return torch.bmm(flat, weights.transpose(1, 2).to(x.dtype)).squeeze(2)


@torch.fx.wrap
def looked_at(x: Tensor, query: Tensor) -> Tensor:
    """Returns (N, 1, ...): the softmax over positions of query . x, of a query (N, C) an image."""
    with without_autocast(x):
        scores = torch.bmm(query.to(wide(x)).unsqueeze(1), x.flatten(2).to(wide(x)))
        return unflatten(scores.softmax(-1).to(x.dtype), 2, x.shape[2:])


@torch.fx.wrap
def looked_up(x: Tensor, keys: Tensor, query: Tensor) -> Tensor:
    """Returns (N, 1, ...): query . (softmax over positions of keys x), of a query (N, m) each."""
    with without_autocast(x):
        shares = (keys.to(wide(x)) @ x.flatten(2).to(wide(x))).softmax(-1)  # (N, m, P)
        found = torch.bmm(query.to(wide(x)).unsqueeze(1), shares)
        return unflatten(found.to(x.dtype), 2, x.shape[2:])


def half(channels: int, form: Form) -> int:
    """Returns C // 2, of which a layer norm of the sequential form needs eight."""
    least = 4 * RATIO if form == "sequential" else 2
    if channels < least:
        raise MechanismError(
            f"{channels} channels are too few for its {form} form",
            f"it is for {least} channels or more",
        )
    return channels // 2


def pictured(seen: Seen) -> Mapping[str, Tensor]:
    """Returns the gates, of the parallel form their sum."""
    return gates_of(seen, ("channel", "spatial", "both"))


def count(channels: int, form: Form) -> int:
    """Returns the number of parameters."""
    m = half(channels, form)
    d = m // RATIO
    up = channels * m if form == "parallel" else m * d + d + 2 * d + d * channels + channels
    return channels + 3 * channels * m + up


@mechanism(
    "polarized",
    kind="gate",
    ranks=(1, 2, 3),
    placement="conv3x3-act",
    picture=Picture(
        ("both",),
        "the sum of the channel's and the position's gate; of the sequential form channel and "
        "spatial",
        pictured,
    ),
    formula="C + 4Cm, m = C//2; C + 3Cm + md + 4d + dC, d = m//4, with form=sequential",
    count=count,
    identity=blend(),
    constraints=("C >= 2; C >= 16 with form=sequential",),
    limits=(
        "pruning: Torch-Pruning takes positions for channels in its products of matrices, and "
        "raises an IndexError; prune within attnsurgeon.disabled(model), and let it ignore the "
        "layers before",
    ),
    deviations=(
        "as in the authors' code, the position's gate of the parallel form is the sigmoid of a "
        "softmax, so from 1/2 up, and the sequential form has a bottleneck where the other has "
        "one layer",
        "layers in a row without anything between them are taken where that is less work: a "
        "weighed mean first and then its layer, a query through the layer of the keys",
        "scores and softmax are computed in float32 also for half-precision values",
        "ranks 1 and 3 are not the authors': the positions are those of signal or clip",
    ),
    spatial=False,
)
class Polarized(nn.Module):
    """Reweights channels by what positions hold, and positions by what channels say of them.

    Args:
        channels: C.
        rank: 1, 2 or 3.
        form: parallel, the two gates added, or sequential, one behind the other.

    Shape:
        x (N, C, ...) -> (N, C, ...)
    """

    def __init__(self, channels: int, *, rank: int = 2, form: Form = "parallel") -> None:
        super().__init__()
        m = half(channels, form)
        self.rank = rank
        self.form = form
        self.query = nn.Parameter(torch.empty(1, channels))
        self.value = nn.Linear(channels, m, bias=False)
        self.up: nn.Module = nn.Linear(m, channels, bias=False)
        if form == "sequential":
            self.up = nn.Sequential(
                nn.Linear(m, m // RATIO),
                nn.LayerNorm(m // RATIO),
                nn.ReLU(),
                nn.Linear(m // RATIO, channels),
            )
        self.spatial_query = nn.Linear(channels, m, bias=False)
        self.spatial_value = read(nn.Linear(channels, m, bias=False))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Starts as the authors' networks do."""
        layers = (self.value, self.spatial_query, self.spatial_value)
        for weight in (self.query, *(layer.weight for layer in layers)):
            nn.init.kaiming_normal_(weight, nonlinearity="relu")

    def channel(self, x: Tensor) -> Tensor:
        """Returns the gates of the channels, (N, C, 1, ...)."""
        gate = self.up(self.value(attended(x, self.query))).sigmoid()
        return per_channel(gate.to(x.dtype), self.rank)

    def spatial(self, x: Tensor) -> Tensor:
        """Returns the gates of the positions, (N, 1, ...)."""
        query = self.spatial_query(mean(x, positions(self.rank)))  # (N, m)
        if self.form == "sequential":
            return looked_up(x, self.spatial_value.weight, query).sigmoid()
        return looked_at(x, F.linear(query, self.spatial_value.weight.transpose(0, 1))).sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        """Returns `x` times its gates."""
        if self.form == "sequential":
            y = x * self.channel(x)
            return y * self.spatial(y)
        return x * (self.channel(x) + self.spatial(x))
