"""Competitive squeeze-and-excitation: branch and shortcut together decide on the branch's gates.

    z = squeeze(mean(branch), mean(shortcut))
    y = branch * sigmoid(W2 z) + shortcut

where squeeze is one of

    double-fc     [relu(W1 mean(branch)), relu(V1 mean(shortcut))]
    pair-2x1      relu(W1 mean over maps of batchnorm(conv(I))), I the C x 2 image of the two
                  means and 2 x 1 a kernel that sees both values of a channel
    pair-1x1      the same with a kernel that sees one value
    folded-3x3    the same with a 3 x 3 kernel and the image folded: row by row 16 means of the
                  branch, then the same 16 of the shortcut

Hu et al., "Competitive Inner-Imaging Squeeze and Excitation for Residual Network", arXiv 2018,
https://arxiv.org/abs/1807.08920
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attnsurgeon.attention.checks import hidden_width
from attnsurgeon.attention.identity import Gate, native
from attnsurgeon.attention.norms import ONE_VALUE, BatchNorm
from attnsurgeon.attention.pictures import fused
from attnsurgeon.attention.pooling import Mean
from attnsurgeon.attention.registry import mechanism
from attnsurgeon.attention.shapes import per_channel, unflatten
from attnsurgeon.errors import MechanismError

Squeeze = Literal["double-fc", "pair-2x1", "pair-1x1", "folded-3x3"]
FOLD = 16  # columns of the folded image
KERNELS = {"pair-2x1": (1, 2), "pair-1x1": (1, 1), "folded-3x3": (3, 3)}


def image_size(channels: int, squeeze: str) -> tuple[int, int]:
    """Returns height and width of the image of the means of branch and shortcut."""
    if squeeze != "folded-3x3":
        return channels, 2
    if channels % FOLD or channels < 2 * FOLD:
        raise MechanismError(
            f"{channels} channels do not fold into at least 3 rows of {FOLD}",
            "use squeeze='pair-2x1', or a multiple of 16 from 32 up",
        )
    return 2 * channels // FOLD, FOLD


def features(channels: int, squeeze: str) -> int:
    """Returns how many values the convolution leaves of the image."""
    height, width = image_size(channels, squeeze)
    tall, wide = KERNELS[squeeze]
    return (height - tall + 1) * (width - wide + 1)


def map_count(channels: int, maps: int | None) -> int:
    """Returns the number of maps, by default a sixteenth of a bottleneck's inner width."""
    return maps or max(channels // 64, 1)


class DoubleFC(nn.Module):
    """One layer for each of the two means.

    Shape:
        (N, C), (N, C) -> (N, 2m)
    """

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.branch = nn.Linear(channels, hidden, bias=False)
        self.shortcut = nn.Linear(channels, hidden, bias=False)

    def forward(self, branch: Tensor, shortcut: Tensor) -> Tensor:
        """Returns both hidden layers side by side."""
        return F.relu(torch.cat((self.branch(branch), self.shortcut(shortcut)), dim=1))


class InnerImage(nn.Module):
    """The two means as an image, a convolution over it, and one layer.

    Shape:
        (N, C), (N, C) -> (N, m)
    """

    def __init__(self, channels: int, hidden: int, *, squeeze: str, maps: int | None) -> None:
        super().__init__()
        self.image = folded if squeeze == "folded-3x3" else paired
        count = map_count(channels, maps)
        self.conv = nn.Conv2d(1, count, KERNELS[squeeze], bias=False)
        self.norm = BatchNorm(count)
        self.fc1 = nn.Linear(features(channels, squeeze), hidden, bias=False)

    def forward(self, branch: Tensor, shortcut: Tensor) -> Tensor:
        """Returns the hidden layer."""
        maps = self.norm(self.conv(self.image(branch, shortcut)))  # (N, maps, ...)
        return F.relu(self.fc1(maps.mean(1).flatten(1)))


def paired(branch: Tensor, shortcut: Tensor) -> Tensor:
    """Returns (N, 1, C, 2): a row a channel, the branch's mean and the shortcut's."""
    return torch.stack((branch, shortcut), dim=-1).unsqueeze(1)


def folded(branch: Tensor, shortcut: Tensor) -> Tensor:
    """Returns (N, 1, 2C / 16, 16): rows of the branch and of the shortcut in turn."""
    rows = [unflatten(z, 1, (-1, FOLD)) for z in (branch, shortcut)]
    return torch.stack(rows, dim=2).flatten(1, 2).unsqueeze(1)


def count(channels: int, squeeze: Squeeze, reduction: int, maps: int | None) -> int:
    """Returns the number of parameters."""
    m = hidden_width(channels, reduction)
    if squeeze == "double-fc":
        return 4 * channels * m
    tall, wide = KERNELS[squeeze]
    imaging = map_count(channels, maps) * (tall * wide + 2)
    return imaging + features(channels, squeeze) * m + m * channels


@mechanism(
    "cmpe-se",
    kind="fusion",
    ranks=(1, 2, 3),
    bottleneck=("squeeze.branch", "squeeze.shortcut", "squeeze.fc1"),
    placement="residual-add",
    picture=fused("the gate of each channel for the branch, 1 for the shortcut"),
    formula="double-fc 4Cm; pair-2x1 (2 + 2)k + 2Cm; pair-1x1 (1 + 2)k + 3Cm; folded-3x3 "
    "(9 + 2)k + 14 (C//8 - 2) m + Cm; m = C//r, k = max(C//64, 1)",
    count=count,
    identity=native("fc2", how="fc2 starts at zero and the gate is 2 * sigmoid, so it starts at 1"),
    constraints=("C >= reduction", "folded-3x3: C is a multiple of 16, at least 32"),
    deviations=(
        "double-fc is the default, the first of the four that the authors compare; no biases, as "
        "in their code",
        "there are C//64 maps, a sixteenth of a bottleneck's inner width; the authors' basic "
        "blocks, without a bottleneck, have C//16: give maps to have as many",
        "folded-3x3 folds as the authors' bottlenecks do; their wide networks fold into 10 rows of "
        "each value",
        "the authors' networks are for small images and normalise before each convolution; the "
        "placement is that of these: the addition",
        "ranks 1 and 3 are not the authors': the means run over all positions",
        ONE_VALUE,
    ),
    spatial=False,
)
class CMPESE(nn.Module):
    """Replaces a residual addition by one whose branch is gated, channel by channel.

    Args:
        channels: C.
        rank: 1, 2 or 3.
        squeeze: "double-fc", "pair-2x1", "pair-1x1" or "folded-3x3".
        reduction: r, by which the hidden layer is narrower.
        maps: k, the maps that the convolution makes of the image; None for C // 64, at least 1.

    Shape:
        branch (N, C, ...), shortcut (N, C, ...) -> (N, C, ...)
    """

    def __init__(
        self,
        channels: int,
        *,
        rank: int = 2,
        squeeze: Squeeze = "double-fc",
        reduction: int = 16,
        maps: int | None = None,
    ) -> None:
        super().__init__()
        m = hidden_width(channels, reduction)
        self.rank = rank
        self.pool = Mean(rank=rank)
        self.squeeze: nn.Module = (
            DoubleFC(channels, m)
            if squeeze == "double-fc"
            else InnerImage(channels, m, squeeze=squeeze, maps=maps)
        )
        self.fc2 = nn.Linear(2 * m if squeeze == "double-fc" else m, channels, bias=False)
        self.gate = Gate()

    def forward(self, branch: Tensor, shortcut: Tensor) -> Tensor:
        """Returns the gated branch plus the shortcut."""
        z = self.squeeze(self.pool(branch), self.pool(shortcut))
        gate = self.gate(self.fc2(z))  # (N, C)
        return branch * per_channel(gate, self.rank).to(branch.dtype) + shortcut
