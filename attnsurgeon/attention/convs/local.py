"""Sums over the window around each position, by weights that differ from position to position."""

from __future__ import annotations

import itertools

import torch
import torch.fx
from torch import Tensor
from torch.nn import functional as F

from attnsurgeon.attention.convs.geometry import output_size
from attnsurgeon.attention.layout import channels_last
from attnsurgeon.attention.pictures import Seen, index_of
from attnsurgeon.attention.precision import wide
from attnsurgeon.attention.resampling import along, tiles
from attnsurgeon.attention.shapes import Conv, unflatten
from attnsurgeon.errors import MechanismError

LENGTHS = (24, 25, 26, 27)  # of maps that a convolution is tried on


def in_its_place(conv: Conv) -> Conv:
    """Returns the convolution, which has to make as many channels as it takes, where they stand.

    Raises:
        MechanismError: what is made at each position of its input cannot take its place.
    """
    if conv.in_channels != conv.out_channels:
        raise MechanismError(
            f"it keeps the number of channels, and the convolution makes {conv.out_channels} of "
            f"{conv.in_channels}",
            "sk and psa change it",
        )
    return everywhere(conv)


def everywhere(conv: Conv) -> Conv:
    """Returns the convolution, which has to make something at every position but for its stride.

    Raises:
        MechanismError: what is made at each position of its input cannot take its place.
    """
    if conv.padding_mode != "zeros":
        raise MechanismError(
            f"the convolution pads with {conv.padding_mode!r}, and its substitute with zeros",
            "attention on its weight, as we and aw, leaves it as it is",
        )
    rank = len(conv.kernel_size)
    for n in LENGTHS:
        kept = tuple(-(-n // step) for step in conv.stride)
        if output_size(conv, (n,) * rank) != kept:
            raise MechanismError(
                f"it works at every position, and the convolution leaves some out: its kernel is "
                f"{conv.kernel_size} and its padding {conv.padding}",
                "odd kernels with half of them as padding keep all positions",
            )
    return conv


@torch.fx.wrap
def tile_means(x: Tensor, stride: tuple[int, ...]) -> Tensor:
    """Returns the mean of each tile of the size of the stride; the last one may be smaller."""
    for axis, step in enumerate(stride, 2):
        if step > 1:
            x = along(x, axis, tiles(x.shape[axis], step, x), like=x)
    return x


@torch.fx.wrap
def local_sums(
    x: Tensor,
    weight: Tensor,
    groups: int,
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    dilation: tuple[int, ...],
) -> Tensor:
    """Returns (N, C, ...): at each position the sum of a window by weights of that position.

    Args:
        x: (N, C, ...).
        weight: (N, groups or 1, C / groups or 1, window, ...), of the size of the output.
        groups: into which the channels of `x` are cut.
        kernel, stride, dilation: along each axis; the window is padded with zeros.
    """
    spans = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
    ends = [n // 2 for n in reversed(spans) for _ in range(2)]
    padded = unflatten(F.pad(x.to(weight.dtype), ends), 1, (groups, -1))
    made = line = None
    for tap, place in enumerate(itertools.product(*(range(k) for k in kernel))):
        window = [
            slice(d * i, d * i - span or None, step)
            for d, i, span, step in zip(dilation, place, spans, stride, strict=True)
        ]
        part, seen = weight[:, :, :, tap], padded[(..., *window)]
        line = part * seen if line is None else torch.addcmul(line, part, seen)
        if place[-1] == kernel[-1] - 1:
            # Lines are added in float32: the sums of a large window would be rounded too often.
            made = line.to(wide(line)) if made is None else made + line
            line = None
    assert made is not None
    made = made.to(weight.dtype)
    made = made.flatten(1, 2)
    return channels_last(made) if x.stride(1) == 1 and x.shape[1] > 1 else made.contiguous()


def window_of(
    seen: Seen,
    weight: Tensor,
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    dilation: tuple[int, ...],
) -> Tensor:
    """Returns on a map (N, ...) the weights (N, window, ...) of the window of one position."""
    sides = seen.values[0].shape[2:]
    index = index_of(seen.position, weight.shape[2:])
    own = weight[(..., *index)]  # (N, window)
    looked = own.new_zeros(len(own), *sides)
    for tap, place in enumerate(itertools.product(*(range(k) for k in kernel))):
        at = [
            step * i + d * (j - k // 2)
            for step, i, d, j, k in zip(stride, index, dilation, place, kernel, strict=True)
        ]
        if all(0 <= i < side for i, side in zip(at, sides, strict=True)):
            looked[(slice(None), *at)] = own[:, tap]
    return looked
