"""Interflow: every stage of a network classifies, and attention weighs their votes.

    y = w_n * logits + sum over the earlier stages i of w_i (W_i mean(x_i) + b_i)

Cai, "Interflow: Aggregating Multi-layer Feature Mappings with Attention Mechanism", arXiv 2021,
https://arxiv.org/abs/2106.14073
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.fx
from torch import Tensor, nn

from attnsurgeon.attention.identity import Identity, zero
from attnsurgeon.attention.pictures import Picture
from attnsurgeon.attention.pooling import Mean
from attnsurgeon.attention.precision import wide
from attnsurgeon.attention.registry import mechanism
from attnsurgeon.errors import MechanismError

Mode = Literal["soft", "hard"]


@torch.fx.wrap
def all_of(maps: Sequence[Tensor], stages: int) -> Sequence[Tensor]:
    """Returns the maps, of which there has to be one for each earlier stage."""
    if len(maps) != stages:
        raise MechanismError(
            f"there are {len(maps)} maps for the classifiers of {stages} stages",
            "give the map of each earlier stage, the oldest first",
        )
    return maps


@torch.fx.wrap
def weighed(votes: Sequence[Tensor], weights: Tensor) -> Tensor:
    """Returns (N, classes), of the dtype of the last vote: the votes times their weights.

    It is exact where the last weight is one and the others are zero, as a product of matrices,
    which autocast rounds, would not be.
    """
    kind = torch.promote_types(wide(votes[-1]), weights.dtype)
    total = votes[-1].to(kind) * weights[-1]
    for vote, weight in zip(votes[:-1], weights[:-1], strict=True):
        total = total + vote.to(kind) * weight
    return total.to(votes[-1].dtype)


def count(classes: int, stages: tuple[int, ...], mode: Mode) -> int:
    """Returns the number of parameters."""
    return sum(c * classes + classes for c in stages) + (len(stages) + 1) * (mode == "soft")


def site_args(
    size: tuple[int, ...], classes: int, stages: tuple[int, ...]
) -> dict[str, int | tuple[int, ...]]:
    """Returns the classes of the network's own classifier and the channels of earlier stages."""
    return {"classes": classes, "stages": stages}


def start(module: nn.Module, replaced: nn.Module | None) -> nn.Module:
    """Starts with the network's own vote alone."""
    assert isinstance(module, Interflow)
    with torch.no_grad():
        if module.mode == "soft":
            module.weights.zero_()
        else:  # weights that cannot learn must not be zero, so the votes that they weigh are
            zero(module, "classifiers")
        module.weights[-1] = 1
    return module


@mechanism(
    "interflow",
    kind="head",
    ranks=(1, 2, 3),
    placement="classifier",
    picture=Picture(
        ("stages",),
        "w of each stage, the oldest first and the network's own last",
        lambda seen: {"stages": seen.module.weights},
    ),
    formula="sum over the earlier stages of (C_i + 1) classes, + the number of all stages",
    count=count,
    identity=Identity(
        "native",
        "the weights start as one for the network's own logits and zero for all others; with "
        "mode='hard' the others' weights stay, and their classifiers start at zero instead",
        start,
    ),
    constraints=("there are feature maps of several stages",),
    deviations=(
        "from the paper's text, for there is no authors' code: the paper's networks are VGG-16 "
        "in four stages; here the stages are those of the network, by resolution",
        "the last stage's classifier is the network's own, with its weights and whatever it has "
        "before it, instead of a mean over the map and one new layer",
        "mode='soft' is the paper's 1 x n convolution over the n votes, without a bias, which "
        "would be the same for all classes; it starts as convolutions do in PyTorch",
        "mode='hard' has fixed weights, 1/n each unless given; they are in the state dict",
    ),
    spatial=False,
    site_args=site_args,
    takes=("logits", "stages"),
    limits=(
        "FX int8: its maps come from hooks, which the graph mode of torch.fx loses with the "
        "modules that it exchanges; PT2E keeps them",
    ),
)
class Interflow(nn.Module):
    """Adds to the scores of a network those that its earlier stages give, weighted.

    Args:
        channels: of the last map, which the network's own classifier sees; nothing depends on it.
        rank: 1, 2 or 3.
        classes: how many scores there are.
        stages: channels of the maps of the earlier stages, oldest first.
        mode: "soft" for weights that are learned, "hard" for fixed ones.
        weights: those of the votes to start from, or with "hard" to stay at, oldest first and the
            network's own last; None for the default start of a convolution, or 1/n each.

    Shape:
        logits (N, classes), each map (N, stages[i], ...) -> (N, classes)
    """

    def __init__(
        self,
        channels: int,
        *,
        rank: int = 2,
        classes: int,
        stages: tuple[int, ...],
        mode: Mode = "soft",
        weights: tuple[float, ...] | None = None,
    ) -> None:
        super().__init__()
        votes = len(stages) + 1
        if weights is not None and len(weights) != votes:
            raise MechanismError(
                f"weights={weights} are not those of {votes} votes",
                "give one for each earlier stage, the oldest first, and one for the network",
            )
        self.mode = mode
        self.pool = Mean(rank=rank)
        self.classifiers = nn.ModuleList(nn.Linear(c, classes) for c in stages)
        initial = torch.tensor([*map(float, weights or [1 / votes] * votes)])
        if mode == "soft":
            self.weights = nn.Parameter(initial)
            if weights is None:
                nn.init.uniform_(self.weights, -(votes**-0.5), votes**-0.5)
        else:
            self.register_buffer("weights", initial)

    def forward(self, logits: Tensor, *maps: Tensor) -> Tensor:
        """Returns the scores of all stages together."""
        given = all_of(maps, len(self.classifiers))
        votes = [layer(self.pool(given[i])) for i, layer in enumerate(self.classifiers)]
        return weighed([*votes, logits], self.weights)

    def extra_repr(self) -> str:
        """Returns the mode, which no parameter shows."""
        return f"mode={self.mode}"
