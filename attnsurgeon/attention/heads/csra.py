"""Class-specific residual attention: each class attends to the positions that speak for it.

    s_c(p) = w_c . x(p) / |w_c|
    y_c = sum over heads of mean_p s_c(p) + lam * sum_p s_c(p) softmax_p(T s_c(p))
    where each head has its own w and T; for T = 99 the maximum over p in place of the softmax

Zhu and Wu, "Residual Attention: A Simple but Effective Method for Multi-Label Recognition",
ICCV 2021, https://arxiv.org/abs/2108.02456
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.fx
from torch import Tensor, nn
from torch.nn import functional as F

from attnsurgeon.attention.identity import Blend, BlendOld, Identity
from attnsurgeon.attention.pictures import Picture, Seen
from attnsurgeon.attention.pooling import Mean, mean, peak
from attnsurgeon.attention.precision import wide
from attnsurgeon.attention.registry import mechanism
from attnsurgeon.attention.shapes import unflatten

Heads = Literal[1, 2, 4, 6, 8]
MAXIMUM = 99  # the temperature that stands for the maximum
TEMPERATURES: dict[int, tuple[int, ...]] = {
    1: (1,),
    2: (1, MAXIMUM),
    4: (1, 2, 4, MAXIMUM),
    6: (1, 2, 3, 4, 5, MAXIMUM),
    8: (1, 2, 3, 4, 5, 6, 7, MAXIMUM),
}
SMALLEST = 1e-7  # norm of a weight that is divided by it
_CONVOLVE: dict[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


@torch.fx.wrap
def lengths(weight: Tensor) -> Tensor:
    """Returns the norm of each row of `weight` (heads, classes, C), one below the other, (..., 1).

    Scores are divided by it where the weight itself could be: of these there are fewer.
    """
    w = weight.to(wide(weight))
    return w.norm(dim=-1).clamp(min=SMALLEST).reshape(-1, 1)


@torch.fx.wrap
def fused(scores: Tensor, lengths: Tensor, temperatures: tuple[int, ...], lam: float) -> Tensor:
    """Returns (N, classes), in float32 at least, from (N, heads * classes, positions)."""
    by_head = unflatten(scores.to(lengths.dtype) / lengths, 1, (len(temperatures), -1))
    logits = mean(by_head, (3,)).sum(1)
    for score, t in zip(by_head.unbind(1), temperatures, strict=True):
        logits = logits + lam * attended(score, t)
    return logits


def attended(score: Tensor, temperature: int) -> Tensor:
    """Returns (N, classes): the mean of the scores, weighted by how high they are."""
    if temperature == MAXIMUM:
        return peak(score, (2,))
    return (score * (temperature * score).softmax(2)).sum(2)


def looks(seen: Seen) -> dict[str, Tensor]:
    """Returns the weights of the positions (N, classes, ...), which add up to 1."""
    module, x = seen.module, seen.values[0]
    scores = module.scores(x) / lengths(module.weight)
    by_head = unflatten(scores, 1, (len(module.temperatures), -1))
    weights = torch.stack(
        [weights_of(s, t) for s, t in zip(by_head.unbind(1), module.temperatures, strict=True)]
    )
    return {"classes": unflatten(weights.mean(0), 2, x.shape[2:])}


def weights_of(score: Tensor, temperature: int) -> Tensor:
    """Returns with which weights `attended` adds the scores up; equal maxima share alike."""
    if temperature != MAXIMUM:
        return (temperature * score).softmax(2)
    largest = (score == score.amax(2, keepdim=True)).to(score.dtype)
    return largest / largest.sum(2, keepdim=True)


def count(channels: int, classes: int, heads: int) -> int:
    """Returns the number of parameters."""
    return heads * channels * classes


def site_args(size: tuple[int, ...], classes: int) -> dict[str, int]:
    """Returns the number of classes of the classifier that is replaced."""
    return {"classes": classes}


def adopt(module: nn.Module, replaced: nn.Module) -> None:
    """Starts every head from the weight of the classifier, where that reads the same channels."""
    assert isinstance(module, CSRA)
    weight = replaced.get_parameter("weight").flatten(1)
    if weight.shape == module.weight.shape[1:]:
        with torch.no_grad():
            module.weight.copy_(weight.expand_as(module.weight))


def start(module: nn.Module, replaced: nn.Module | None) -> nn.Module:
    """Starts as a mean over the map and a linear layer, whose weight every head starts from."""
    assert isinstance(module, CSRA)
    _, classes, channels = module.weight.shape
    linear = nn.Linear(channels, classes)
    adopt(module, linear)
    return Blend(module, base=nn.Sequential(Mean(rank=module.rank), linear))


@mechanism(
    "csra",
    kind="head",
    ranks=(1, 2, 3),
    placement="classifier",
    picture=Picture(
        ("classes",),
        "where each class looks: the softmax over the positions, or for T = 99 where the maximum "
        "is; the mean over the heads",
        looks,
    ),
    formula="heads * C * classes",
    count=count,
    identity=Identity(
        "blend",
        "y = old + g * (mechanism(x) - old), learnable g = 0; the old classifier stays, and is "
        "alone a mean over the map and a linear layer",
        start,
        BlendOld,
    ),
    constraints=("heads is 1, 2, 4, 6 or 8, for which there are published temperatures",),
    deviations=(
        "the heads start from the weight of the classifier that is there; the authors train "
        "theirs from scratch",
        "a weight of norm zero gives the score zero instead of NaN",
        "lam is 0.1 as the authors have it for VOC 2007; for COCO it is 0.5",
        "ranks 1 and 3 are not the authors': the positions are those of the signal or clip",
    ),
    spatial=False,
    site_args=site_args,
    adopt=adopt,
    limits=(
        'fx, FX int8: its maps come from hooks, which torch.fx does not run: under init="paper" it '
        "cannot be traced, and the graph mode for int8 loses them; torch.export and torch.jit do",
        "pruning: a pruner takes it for the linear layer that it is held by",
    ),
)
class CSRA(nn.Module):
    """Makes the scores of the classes from a feature map, without any pooling before.

    Args:
        channels: C.
        rank: 1, 2 or 3.
        classes: how many scores there are.
        heads: how many classifiers with temperatures of their own are added up.
        lam: how much the attended score counts beside the mean.

    Shape:
        x (N, C, ...) -> (N, classes)
    """

    def __init__(
        self, channels: int, *, rank: int = 2, classes: int, heads: Heads = 1, lam: float = 0.1
    ) -> None:
        super().__init__()
        self.rank = rank
        self.lam = lam
        self.temperatures = TEMPERATURES[heads]
        self.weight = nn.Parameter(torch.empty(heads, classes, channels))
        nn.init.uniform_(self.weight, -(channels**-0.5), channels**-0.5)

    def scores(self, x: Tensor) -> Tensor:
        """Returns w_c . x(p), (N, heads * classes, positions)."""
        kernel = self.weight.flatten(0, 1)[(..., *[None] * self.rank)]
        return _CONVOLVE[self.rank](x, kernel).flatten(2)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the logits."""
        found = fused(self.scores(x), lengths(self.weight), self.temperatures, self.lam)
        return found.to(x.dtype)

    def extra_repr(self) -> str:
        """Returns what no parameter shows."""
        return f"lam={self.lam:g}, temperatures={self.temperatures}"
