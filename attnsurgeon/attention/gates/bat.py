"""Bilinear attention transform: blocks of a map are mixed, row with row and column with column.

    z = relu(batchnorm(W_1 x)), m channels in k groups;  g = relu(batchnorm(W_g z)), k channels
    P = sigmoid(W_p [maxima of g in s bands of rows]), each row divided by its sum        s x s
    Q = sigmoid(W_q [maxima of g in s bands of columns]), each column divided by its sum  s x s
    t_ia,jb = sum over blocks i', j' of P_ii' z_i'a,j'b Q_j'j, for places a, b within a block
    y = x + dropout(relu(batchnorm(W_3 relu(batchnorm(W_2 t)))))

Chi et al., "Non-Local Neural Networks With Grouped Bilinear Attentional Transforms", CVPR 2020,
https://openaccess.thecvf.com/content_CVPR_2020/html/Chi_Non-Local_Neural_Networks_With_Grouped_Bilinear_Attentional_Transforms_CVPR_2020_paper.html
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.fx
from torch import Tensor, nn
from torch.nn import functional as F

from attnsurgeon.attention.checks import hidden_width
from attnsurgeon.attention.gradients import eager
from attnsurgeon.attention.identity import blend
from attnsurgeon.attention.kernels import kernel_along
from attnsurgeon.attention.norms import ONE_VALUE, BatchNorm
from attnsurgeon.attention.partition import groups_of
from attnsurgeon.attention.pictures import Picture, Seen, index_of
from attnsurgeon.attention.pooling import peak
from attnsurgeon.attention.precision import wide, without_autocast
from attnsurgeon.attention.registry import mechanism
from attnsurgeon.attention.resampling import adaptive, centred, nearest
from attnsurgeon.attention.shapes import CONV, positions, unflatten
from attnsurgeon.errors import MechanismError

# Of a matrix that multiplies from the left, rows are targets and columns sources; from the right
# it is the other way round.
TO_THE_LEFT, TO_THE_RIGHT = -1, -2
TARGETS = {TO_THE_LEFT: -2, TO_THE_RIGHT: -1}
DROPOUT = {1: nn.Dropout1d, 2: nn.Dropout2d, 3: nn.Dropout3d}


@torch.fx.wrap
def banded(g: Tensor, axis: int, bands: int) -> Tensor:
    """Returns (N, k, bands): maxima of `g` (N, k, ...) in bands across an axis that cover it."""
    others = tuple(a for a in positions(g.dim() - 2) if a != axis)
    line = peak(g, others) if others else g  # (N, k, L)
    if eager() and line.shape[2] % bands == 0:
        return unflatten(line, 2, (bands, -1)).amax(3)
    outside = adaptive(line.shape[2], bands, line) == 0
    return line.unsqueeze(2).masked_fill(outside, -torch.inf).amax(3)


@torch.fx.wrap
def shares(scores: Tensor, side: int, source: int) -> Tensor:
    """Returns (N, k, s, s): sigmoids that add up to 1 along the axis of the sources.

    By logarithms, in float32 at least: sigmoids that all vanish have no quotient.
    """
    scores = unflatten(scores.flatten(1), 1, (-1, side, side))
    scores = scores.to(wide(scores))
    # ONNX has no such function, and the sigmoid of its runtime is the same for all below -18.
    logarithms = F.logsigmoid(scores) if eager() else -F.softplus(-scores)
    return logarithms.softmax(source)


def spread(shared: Tensor, length: int, source: int) -> Tensor:
    """Returns (N, k, L, L), which does to an axis of that length what (N, k, s, s) do to s blocks.

    Where s does not divide it, the axis is interpolated to the next multiple, and back.
    """
    side = shared.shape[-1]
    places = (length + side - 1) // side  # of a block
    total = side * places
    if not (eager() and places == 1):
        block = nearest(total, side, shared)
        place = torch.arange(total, device=shared.device)
        place = place % (torch.ones_like(place) * places)  # ONNX knows no remainder of a size
        shared = block @ shared @ block.transpose(0, 1) * (place[:, None] == place)
    if eager() and total == length:
        return shared
    there, back = centred(total, length, shared), centred(length, total, shared)
    if source == TO_THE_LEFT:
        return back @ shared @ there
    return there.transpose(0, 1) @ shared @ back.transpose(0, 1)


@torch.fx.wrap
def mixed(z: Tensor, shared: Sequence[Tensor]) -> Tensor:
    """Returns `z` (N, m, ...) with each axis multiplied by its matrix of blocks, (N, k, s, s).

    The last axis is multiplied from the right, the others from the left, in float32 at least: a
    norm follows that makes much of what little is left of the differences.
    """
    along = enumerate(zip(shared, sources(len(shared)), strict=True), 2)
    with without_autocast(z):
        *left, right = (spread(share, z.shape[axis], source) for axis, (share, source) in along)
        y = unflatten(z.to(right.dtype), 1, (right.shape[1], -1))  # (N, k, m / k, ...)
        for axis, matrix in enumerate(left, 3):
            y = y.movedim(axis, 2)
            y = unflatten(matrix @ y.flatten(3), 3, y.shape[3:]).movedim(2, axis)
        y = unflatten(y.flatten(2, -2) @ right, 2, y.shape[2:-1])
        return y.flatten(1, 2).to(z.dtype)


def sources(rank: int) -> tuple[int, ...]:
    """Returns which axis of each axis' matrix is that of the sources."""
    return (TO_THE_LEFT,) * (rank - 1) + (TO_THE_RIGHT,)


def looks(seen: Seen) -> dict[str, Tensor]:
    """Returns with which weights one position looks at the others, the mean over groups."""
    x = seen.values[0]
    sides = x.shape[2:]
    along = zip(seen.results["softmax"], index_of(seen.position, sides), strict=True)
    found, *others = (
        spread(shared, side, source).select(TARGETS[source], at)  # (N, k, L)
        for (shared, at), side, source in zip(along, sides, sources(len(sides)), strict=True)
    )
    for line in others:
        found = found.unsqueeze(-1) * unflatten(line, 2, (1,) * (found.dim() - 2) + (-1,))
    return {"attention": found.mean(1).to(x.dtype)}


def count(channels: int, rank: int, reduction: int, block: int, groups: int, bias: bool) -> int:
    """Returns the number of parameters."""
    m, k = hidden_width(channels, reduction), groups
    layers = 2 * channels * m + m * m + m * k
    rows = m + k + m + channels  # of the four layers, each with a norm
    lines = sum(s * s * k * (s * k + 1) for s in kernel_along(block, rank))
    return layers + (2 + bias) * rows + lines


@mechanism(
    "bat",
    kind="gate",
    ranks=(1, 2, 3),
    placement="middle-block",
    picture=Picture(
        ("attention",),
        "P and Q at the position that was asked for, the mean over groups; adds up to 1",
        looks,
    ),
    formula="2Cm + m^2 + mk + 3(2m + k + C) + 2(s^3 k^2 + s^2 k), m = C//r; 2(2m + k + C) with "
    "bias=False; s^3 k^2 + s^2 k once at rank 1, and a third time, with s = 3, at rank 3",
    count=count,
    identity=blend(),
    constraints=("groups divide C // reduction",),
    deviations=(
        "where blocks do not divide a side, it is interpolated linearly to the next multiple and "
        "back, all within the two matrices; there the authors' code raises, and where height and "
        "width have other numbers of blocks, as it takes the height for both",
        "the authors put it behind every second block of the two middle stages, five of a "
        "ResNet-50; the placement takes every block there, and rules take fewer",
        "dropout is 0.2, as in the authors' networks of more than 34 layers; theirs of fewer have "
        "0, and only while training it drops channels of what is added",
        "the biases of the layers before a norm are kept to have the authors' parameters; the norm "
        "takes them away again, so they cannot learn while training; bias=False leaves them out, "
        "as in timm's module, which has groups=2, and reduction=4 rounded to a multiple of 8",
        "shares are computed from logarithms, in float32 also for half-precision values: sigmoids "
        "that all vanish have no quotient",
        "ranks 1 and 3 are not the authors': a matrix for each axis, of 3 blocks in time; their "
        "code for clips has rows and columns of each frame, by a softmax",
        ONE_VALUE,
    ),
    limits=(
        "pruning: Torch-Pruning is still at work after ten seconds on a network of three blocks; "
        "prune within attnsurgeon.disabled(model), and let it ignore the layers before",
    ),
    unmoved=("reduce.0.bias", "squeeze.0.bias", "mix.0.bias", "expand.0.bias"),
)
class BilinearTransform(nn.Module):
    """Adds to a map what its blocks of rows and of columns make of each other.

    Args:
        channels: C.
        rank: 1, 2 or 3.
        reduction: r, by which the map that is mixed is narrower.
        block: s, into how many blocks each axis is divided.
        groups: k, how many pairs of matrices there are, each for as many channels.
        dropout: how often a channel of what is added is left out while training.
        bias: whether the layers before norms have biases.

    Shape:
        x (N, C, ...) -> (N, C, ...)
    """

    def __init__(
        self,
        channels: int,
        *,
        rank: int = 2,
        reduction: int = 2,
        block: int = 7,
        groups: int = 4,
        dropout: float = 0.2,
        bias: bool = True,
    ) -> None:
        super().__init__()
        m = hidden_width(channels, reduction)
        k = groups_of(m, groups)
        if not 0 <= dropout < 1:
            raise MechanismError(
                f"dropout={dropout} is not how often a channel may be left out",
                "give 0, or a number between 0 and 1",
            )

        def layer(width: int, out: int) -> nn.Module:
            return nn.Sequential(
                CONV[rank](width, out, 1, bias=bias), BatchNorm(out), nn.ReLU(inplace=True)
            )

        self.blocks = kernel_along(block, rank)
        self.reduce = layer(channels, m)
        self.squeeze = layer(m, k)
        self.lines = nn.ModuleList(nn.Conv1d(k, k * s * s, s) for s in self.blocks)
        self.mix = layer(m, m)
        self.expand = layer(m, channels)
        self.dropout = DROPOUT[rank](dropout)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Starts as the authors' networks do."""
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.kaiming_normal_(parameter, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Returns `x` plus what its blocks make of each other."""
        z = self.reduce(x)
        g = self.squeeze(z)
        along = zip(self.lines, self.blocks, sources(len(self.blocks)), strict=True)
        shared = [
            shares(line(banded(g, axis, side)), side, source)
            for axis, (line, side, source) in enumerate(along, 2)
        ]
        added = self.expand(self.mix(mixed(z, shared)))
        return x + self.dropout(added).to(x.dtype)

    def extra_repr(self) -> str:
        """Returns what the parameters do not show."""
        return f"blocks={self.blocks}"
