"""Dual attention: position attention and channel attention, each added by a weight of its own.

    p_i = sum over j of v(x_j) softmax over j of q(x_i) . k(x_j)       i, j positions
    c_i = sum over j of x_j softmax over j of -x_i . x_j               i, j channels
    y = x + gamma_p p + gamma_c c

Fu et al., "Dual Attention Network for Scene Segmentation", CVPR 2019,
https://arxiv.org/abs/1809.02983
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.fx
from torch import Tensor, nn

from attnsurgeon.attention.checks import hidden_width
from attnsurgeon.attention.gates.nl import gathered, looks, products
from attnsurgeon.attention.identity import native
from attnsurgeon.attention.pictures import Picture, Seen
from attnsurgeon.attention.precision import wide, without_autocast
from attnsurgeon.attention.registry import mechanism
from attnsurgeon.attention.shapes import CONV, unflatten

torch.fx.wrap("products")
torch.fx.wrap("gathered")
Form = Literal["both", "position", "channel"]


@torch.fx.wrap
def among_channels(x: Tensor, gamma: Tensor) -> Tensor:
    """Returns gamma times the sums of channels, weighed by how little they go together."""
    flat = x.flatten(2).to(wide(x))  # (N, C, P)
    with without_autocast(x):
        weights = (flat @ flat.transpose(1, 2)).neg().softmax(-1)  # (N, C, C)
        found = (weights @ flat).to(x.dtype)
    return gamma.to(x.dtype) * unflatten(found, 2, x.shape[2:])


class Positions(nn.Module):
    """What each position finds at all positions, times gamma.

    Shape:
        x (N, C, ...) -> (N, C, ...)
    """

    def __init__(self, channels: int, rank: int, reduction: int) -> None:
        super().__init__()
        m = hidden_width(channels, reduction)
        self.query = CONV[rank](channels, m, 1)
        self.key = CONV[rank](channels, m, 1)
        self.value = CONV[rank](channels, channels, 1)
        self.gamma = nn.Parameter(torch.zeros(1))

    def weights(self, x: Tensor) -> Tensor:
        """Returns the softmax for each position, (N, P, P)."""
        return products(self.query(x), self.key(x)).softmax(-1)

    def forward(self, x: Tensor) -> Tensor:
        """Returns what is to be added."""
        found = gathered(self.weights(x), self.value(x), x)
        return self.gamma.to(found.dtype) * found


class Channels(nn.Module):
    """What each channel finds in all channels, times gamma.

    Shape:
        x (N, C, ...) -> (N, C, ...)
    """

    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """Returns what is to be added."""
        return among_channels(x, self.gamma)


def seen_from(seen: Seen) -> dict[str, Tensor]:
    """Returns with which weights one position looks at the others, where positions do."""
    if seen.module.positions is None:
        return {}
    return looks(seen)


def count(channels: int, form: Form, reduction: int) -> int:
    """Returns the number of parameters."""
    m = hidden_width(channels, reduction)
    positions = 2 * (channels * m + m) + channels * channels + channels + 1
    return (form != "channel") * positions + (form != "position")


@mechanism(
    "danet",
    kind="gate",
    ranks=(1, 2, 3),
    placement="head",
    picture=Picture(("attention",), "the softmax of the position that was asked for", seen_from),
    formula="2(C(C//8) + C//8) + C^2 + C + 2; 1 less with form=position; 1 with form=channel",
    count=count,
    identity=native(how="both gammas start at zero, as in the paper"),
    constraints=("C >= reduction",),
    limits=(
        "pruning: Torch-Pruning is still at work after ten seconds on a network of three blocks; "
        "prune within attnsurgeon.disabled(model), and let it ignore the layers before",
    ),
    deviations=(
        "both look at the same map, and both are added to it; the authors' head has a convolution "
        "before and behind each of the two, and adds what comes of these",
        "the score of two channels is minus their product: the authors' code subtracts it from "
        "the largest of its row, which is the same to a softmax",
        "scores and softmax are computed in float32 also for half-precision values",
        "the key's bias is kept to have the authors' parameters; it adds the same to all scores "
        "of a softmax, so it cannot learn",
        "ranks 1 and 3 are not the authors': the positions are those of signal or clip",
    ),
    inert=("positions.key.bias",),
    spatial=False,
)
class DANet(nn.Module):
    """Adds what each position finds at the others, and what each channel finds in the others.

    Args:
        channels: C.
        rank: 1, 2 or 3.
        form: both, or position or channel attention alone.
        reduction: by which queries and keys are narrower.

    Shape:
        x (N, C, ...) -> (N, C, ...)
    """

    def __init__(
        self, channels: int, *, rank: int = 2, form: Form = "both", reduction: int = 8
    ) -> None:
        super().__init__()
        self.positions = Positions(channels, rank, reduction) if form != "channel" else None
        self.among = Channels() if form != "position" else None

    def pairs(self, x: Tensor) -> tuple[Tensor, torch.Size]:
        """Returns the softmax for each position, (N, P, P), and the size of the map."""
        assert self.positions is not None
        return self.positions.weights(x), x.shape[2:]

    def forward(self, x: Tensor) -> Tensor:
        """Returns `x` plus what was found."""
        y = x
        if self.positions is not None:
            y = y + self.positions(x)
        if self.among is not None:
            y = y + self.among(x)
        return y
