"""Non-local block: what each position finds at all positions is added to it.

    w_ij = softmax over j of theta(x_i) . phi(x_j) / sqrt(m)        embedded
           softmax over j of x_i . x_j                              gaussian
           theta(x_i) . phi(x_j) / P                                dot
           relu(a . [theta(x_i), phi(x_j)]) / P                     concatenation
    y_i = x_i + W sum over j of w_ij g(x_j), with norm batchnorm(W ...)

Wang et al., "Non-local Neural Networks", CVPR 2018, https://arxiv.org/abs/1711.07971
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.fx
from torch import Tensor, nn
from torch.nn import functional as F

from attnsurgeon.attention.checks import are_tokens, hidden_width
from attnsurgeon.attention.identity import Identity, zero
from attnsurgeon.attention.maxima import tile_max
from attnsurgeon.attention.norms import BatchNorm
from attnsurgeon.attention.pictures import Picture, Seen, index_of
from attnsurgeon.attention.precision import wide, without_autocast
from attnsurgeon.attention.registry import mechanism
from attnsurgeon.attention.shapes import CONV, unflatten
from attnsurgeon.errors import MechanismError

torch.fx.wrap("tile_max")

Form = Literal["embedded", "gaussian", "dot", "concatenation"]
Subsample = Literal["none", "before", "after"]
STD = 0.01  # of the authors' weights


@torch.fx.wrap
def products(q: Tensor, k: Tensor) -> Tensor:
    """Returns q_i . k_j of (N, m, ...), for all pairs of positions, (N, P, P), in float32 at least.

    Half precision would not hold the squares of large values.
    """
    with without_autocast(q):
        return q.to(wide(q)).flatten(2).transpose(1, 2) @ k.to(wide(k)).flatten(2)


@torch.fx.wrap
def mean_products(q: Tensor, k: Tensor) -> Tensor:
    """Returns q_i . k_j / P, scaled before the pairs are made."""
    return products(q * (1 / k[0, 0].numel()), k)


@torch.fx.wrap
def rectified_sums(q: Tensor, k: Tensor) -> Tensor:
    """Returns relu(q_i + k_j) / P of two scores a position, (N, 1, P): (N, P, P)."""
    return F.relu(q.transpose(1, 2) + k) * (1 / k.shape[2])


@torch.fx.wrap
def gathered(weights: Tensor, v: Tensor, x: Tensor) -> Tensor:
    """Returns for each position of `x` the sum of `v` (N, m, ...) by its row of weights."""
    with without_autocast(v):
        found = v.to(weights.dtype).flatten(2) @ weights.transpose(1, 2)
    return unflatten(found.to(v.dtype), 2, x.shape[2:])


def looks(seen: Seen) -> dict[str, Tensor]:
    """Returns with which weights one position looks at the others, (N, ...)."""
    x = seen.values[0]
    at, sides = 0, x.shape[2:]
    for index, side in zip(index_of(seen.position, sides), sides, strict=True):
        at = at * side + index
    weights, seen_sides = seen.module.pairs(x)
    return {"attention": unflatten(weights[:, at], 1, seen_sides).to(x.dtype)}


def count(channels: int, form: Form, reduction: int, norm: bool) -> int:
    """Returns the number of parameters."""
    m = hidden_width(channels, reduction)
    layers = 1 if form == "gaussian" else 3
    pairs = 2 * m if form == "concatenation" else 0
    return layers * (channels * m + m) + pairs + m * channels + channels + 2 * norm * channels


def site_args(size: tuple[int, ...], rank: int, subsample: Subsample) -> dict[str, Any]:
    """Returns nothing: what it wants of a site is that there are tiles."""
    if are_tokens(size, rank) and subsample != "none":
        raise MechanismError(
            "here are tokens, and tiles need a map of positions", "use subsample='none'"
        )
    return {}


def start(module: nn.Module, replaced: nn.Module | None) -> nn.Module:
    """Adds nothing at first: of W and the norm behind it, the last is zero."""
    zero(module, "out.1" if isinstance(module.out, nn.Sequential) else "out")
    return module


@mechanism(
    "nl",
    kind="gate",
    ranks=(1, 2, 3),
    placement="middle-block",
    picture=Picture(("attention",), "w_i, of the position that was asked for", looks),
    formula="4Cm + 3m + C, m = C//r; 2Cm + m + C with form=gaussian, 2m more with concatenation, "
    "2C with norm",
    count=count,
    identity=Identity("native", "W, or the norm behind it, starts at zero, as in the paper", start),
    constraints=("C >= reduction",),
    deviations=(
        "scores are divided by sqrt(m), as in the configurations of the authors' code; the "
        "paper's equation does not divide (scale=False), and timm's code divides by sqrt(C)",
        "W has no batch norm behind it, as in mmcv; with norm=True it has the authors', which "
        "starts at zero instead of W and takes the bias of W away again, and under a softmax that "
        "of the values, so that they cannot learn",
        "keys and values are those of all positions; with subsample=before they are those of "
        "maxima over tiles of 2 x 2, as in the configurations of the authors' code; with after, "
        "maxima of their own, as in mmcv and in copies; an axis of one place is not pooled, where "
        "that code raises",
        "the authors put it behind every second block of the two middle stages, five of a "
        "ResNet-50; the placement takes every block there, and rules take fewer",
        "the bias of the keys is kept to have the authors' parameters; it adds the same to all "
        "scores of a softmax, so it cannot learn; with dot and concatenation it can",
        "scores and softmax are computed in float32 also for half-precision values",
    ),
    unmoved=("out.0.bias",),
    inert=("key.bias",),
    spatial=False,
    site_args=site_args,
)
class NonLocal(nn.Module):
    """Adds to each position a sum over all positions, weighed by how they go with it.

    Args:
        channels: C.
        rank: 1, 2 or 3.
        form: embedded, gaussian, dot or concatenation: how two positions are compared.
        reduction: r, by which queries, keys and values are narrower.
        scale: of embedded, whether scores are divided by sqrt(m).
        subsample: whether keys and values are maxima of tiles, taken before or after their layers.
        norm: whether a batch norm follows W.

    Shape:
        x (N, C, ...) -> (N, C, ...)
    """

    subsample: Subsample = "none"  # as in networks pickled before there was a choice

    def __init__(
        self,
        channels: int,
        *,
        rank: int = 2,
        form: Form = "embedded",
        reduction: int = 2,
        scale: bool = True,
        subsample: Subsample = "none",
        norm: bool = False,
    ) -> None:
        super().__init__()
        m = hidden_width(channels, reduction)
        embeds = form != "gaussian"
        self.form, self.subsample = form, subsample
        self.scale = m**-0.5 if form == "embedded" and scale else 1.0
        self.value = CONV[rank](channels, m, 1)
        self.query = CONV[rank](channels, m, 1) if embeds else None
        self.key = CONV[rank](channels, m, 1) if embeds else None
        if form == "concatenation":
            self.pair = nn.Parameter(torch.empty(2 * m))
        out = CONV[rank](m, channels, 1)
        self.out = nn.Sequential(out, BatchNorm(channels)) if norm else out
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Starts as the authors' networks do."""
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            else:
                nn.init.normal_(parameter, std=STD)
        start(self, None)

    def keys_and_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns what is compared with and what is found there, (N, m, ...)."""
        x = tile_max(x) if self.subsample == "before" else x
        k, v = x if self.key is None else self.key(x), self.value(x)
        return (tile_max(k), tile_max(v)) if self.subsample == "after" else (k, v)

    def weights(self, x: Tensor, k: Tensor) -> Tensor:
        """Returns w, (N, P, P), or of as many positions as there are keys."""
        if self.query is None:
            return products(x, k).softmax(-1)
        q = self.query(x)
        if self.form == "embedded":
            return products(q * self.scale, k).softmax(-1)
        if self.form == "dot":
            return mean_products(q, k)
        first, second = self.pair.unsqueeze(0).chunk(2, dim=1)  # (1, m)
        return rectified_sums(first @ q.flatten(2), second @ k.flatten(2))

    def pairs(self, x: Tensor) -> tuple[Tensor, torch.Size]:
        """Returns w, and the size of the map that is looked at."""
        k, _ = self.keys_and_values(x)
        return self.weights(x, k), k.shape[2:]

    def forward(self, x: Tensor) -> Tensor:
        """Returns `x` plus what each position finds."""
        k, v = self.keys_and_values(x)
        return x + self.out(gathered(self.weights(x, k), v, x)).to(x.dtype)

    def extra_repr(self) -> str:
        """Returns what the parameters do not show."""
        return f"form={self.form}, subsample={self.subsample}"
