"""Frequency channel attention: SE whose means are components of a discrete cosine transform.

    z_c = sum over h, w of x_c[h, w] B_i[h, w], i the group of channel c
    B_i[h, w] = b_u(h) b_v(w), (u, v) the frequencies of group i
    b_u(h) = cos(pi u (h + 1/2) / H) / sqrt(H), and sqrt(2) times that where u > 0
    y = x * sigmoid(W2 relu(W1 z))

Qin et al., "FcaNet: Frequency Channel Attention Networks", ICCV 2021,
https://arxiv.org/abs/2012.11879
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.fx
from torch import Tensor, nn
from torch.nn import functional as F

from attnsurgeon.attention.checks import hidden_width
from attnsurgeon.attention.identity import Gate, native
from attnsurgeon.attention.pictures import multiplied
from attnsurgeon.attention.precision import wide
from attnsurgeon.attention.registry import mechanism
from attnsurgeon.attention.resampling import adaptive, eager, times
from attnsurgeon.attention.shapes import per_channel, unflatten
from attnsurgeon.errors import MechanismError, nearest

GRID = 7  # the frequencies are those of a 7 x 7 map
# The authors' order of the frequencies (u, v), as digits: by accuracy when each is used alone,
# from the best and from the worst, and by height, from the lowest.
ORDERS = {
    "top": "00 01 60 05 02 10 12 40 50 16 30 04 06 03 35 22 "
    "46 63 33 53 55 21 61 52 54 32 31 41 23 20 65 13",
    "bot": "66 14 34 36 26 43 11 24 44 45 56 15 42 62 25 51 "
    "64 13 65 20 23 41 31 32 54 52 61 21 55 53 33 63",
    "low": "00 01 10 11 02 20 21 12 22 03 30 40 04 13 31 05 "
    "14 23 32 41 50 06 15 24 33 42 51 60 16 25 34 43",
}
NAMES = tuple(f"{order}{n}" for order in ORDERS for n in (1, 2, 4, 8, 16, 32))


def chosen(frequencies: str, channels: int) -> tuple[tuple[int, int], ...]:
    """Returns (u, v) of every group of channels."""
    if frequencies not in NAMES:
        raise MechanismError(
            f"frequencies={frequencies!r} is no choice", nearest(frequencies, NAMES)
        )
    number = int(frequencies[3:])
    if channels % number:
        fits = max(n for n in (1, 2, 4, 8, 16) if channels % n == 0)
        raise MechanismError(
            f"{channels} channels cannot be split into {number} groups of one size",
            f"use frequencies='{frequencies[:3]}{fits}'",
        )
    return tuple((int(uv[0]), int(uv[1])) for uv in ORDERS[frequencies[:3]].split()[:number])


def sides(dct_size: int | tuple[int, ...]) -> tuple[int, int]:
    """Returns (H, W) of the transform."""
    pair = (dct_size, dct_size) if isinstance(dct_size, int) else tuple(dct_size)
    if len(pair) != 2 or min(pair) < GRID:
        raise MechanismError(
            f"dct_size={dct_size} is not a size of {GRID} x {GRID} or more, the grid of the "
            "frequencies",
            f"use dct_size={GRID}; smaller maps are spread out to it",
        )
    return pair[0], pair[1]


def waves(frequencies: Sequence[int], size: int, like: Tensor) -> Tensor:
    """Returns b_u (K, size) for each frequency u of a 7 x 7 map, where `like` is, in float32 up."""
    u = torch.tensor(frequencies, dtype=torch.float64, device="cpu") * (size // GRID)
    place = torch.arange(size, dtype=torch.float64, device="cpu") + 0.5
    wave = F.normalize((math.pi / size * u[:, None] * place).cos(), dim=1)
    return wave.to(like.device, wide(like))


@torch.fx.wrap
def spectrum(x: Tensor, basis: Tensor) -> Tensor:
    """Returns z (N, C), for the planes (K, H, W) of the frequencies.

    A map of another size is to be pooled to that of the planes; spreading the planes out instead
    is the same, and less work.
    """
    if not (eager() and x.shape[2] == basis.shape[1]):
        basis = adaptive(x.shape[2], basis.shape[1], basis).transpose(-2, -1) @ basis
    if not (eager() and x.shape[3] == basis.shape[2]):
        basis = basis @ adaptive(x.shape[3], basis.shape[2], basis)
    planes = basis.flatten(1)[:, None].to(x.dtype)  # (K, 1, HW)
    groups = unflatten(x.flatten(2), 1, (planes.shape[0], -1))  # (N, K, C / K, HW)
    return times(groups, planes).flatten(1)


def count(channels: int, reduction: int) -> int:
    """Returns the number of parameters."""
    return 2 * channels * hidden_width(channels, reduction)


@mechanism(
    "fca",
    kind="gate",
    ranks=(2,),
    rank_reason="(its frequencies are pairs, one an axis, chosen by the accuracy that each brings "
    "on images)",
    bottleneck=("fc1",),
    placement="block-branch",
    picture=multiplied("channel", how="the gate of each channel"),
    formula="2C(C//r)",
    count=count,
    identity=native("fc2", how="fc2 starts at zero and the gate is 2 * sigmoid, so it starts at 1"),
    constraints=(
        "C >= reduction",
        "C is a multiple of the number of frequencies",
        "dct_size is 7 or more; a plan takes it from the site",
    ),
    deviations=(
        "frequencies are scaled by dct_size // 7 as in the authors' code; below 7 that makes all "
        "of them zero, so such a size is refused, and a site's smaller map counts as 7 x 7",
        "a map of another size than dct_size is pooled to it, as in the authors' code",
        "the basis is computed, not stored: the authors' state dict has C x H x W more numbers",
        "the component of frequency (0, 0) is sqrt(H W) times the mean",
    ),
    site_args=lambda size: {"dct_size": tuple(max(GRID, n) for n in size)},
)
class FCA(nn.Module):
    """Reweights each channel by a gate computed from one frequency component of every channel.

    Args:
        channels: C.
        reduction: r, by which the hidden layer is narrower.
        dct_size: the size of the transform, (H, W) or one number for both.
        frequencies: which, and how many, frequencies the channels are divided among.

    Shape:
        x (N, C, H, W) -> (N, C, H, W)
    """

    basis: Tensor

    def __init__(
        self,
        channels: int,
        *,
        reduction: int = 16,
        dct_size: int | tuple[int, ...] = GRID,
        frequencies: str = "top16",
    ) -> None:
        super().__init__()
        m = hidden_width(channels, reduction)
        self.dct_size = sides(dct_size)
        self.frequencies = chosen(frequencies, channels)
        self.fc1 = nn.Linear(channels, m, bias=False)
        self.fc2 = nn.Linear(m, channels, bias=False)
        self.gate = Gate()
        self.set_basis()

    def set_basis(self) -> None:
        """Computes B_i (K, H, W); they are constants, so they are in no state dict."""
        u, v = zip(*self.frequencies, strict=True)
        rows = waves(u, self.dct_size[0], self.fc1.weight)  # (K, H)
        columns = waves(v, self.dct_size[1], self.fc1.weight)  # (K, W)
        self.register_buffer("basis", rows[:, :, None] * columns[:, None], persistent=False)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> FCA:
        """Converts the module; the basis follows anew: rounded no further, and never left unset."""
        super()._apply(fn, recurse)
        self.set_basis()
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Returns `x` times its channel gates."""
        z = spectrum(x, self.basis)  # (N, C)
        gate = self.gate(self.fc2(F.relu(self.fc1(z))))
        return x * per_channel(gate, 2)

    def extra_repr(self) -> str:
        """Returns what no parameter shows."""
        return f"dct_size={self.dct_size}, frequencies={len(self.frequencies)}"
