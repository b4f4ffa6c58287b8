"""Photograph + Preprocessing -> the input of a network, and which part of the picture it shows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from attnsurgeon.errors import UsageError
from attnsurgeon.looking.photographs import Photograph, pillow
from attnsurgeon.models.preprocessing import Preprocessing

_MOST_PIXELS = 1 << 26  # of a resized picture; one much longer than wide would fill the memory


class Box(NamedTuple):
    """A part of a picture, in its pixels; it may reach beyond the picture."""

    left: float
    top: float
    right: float
    bottom: float


@dataclass(frozen=True, eq=False)
class Prepared:
    """A picture as a network gets it.

    Attributes:
        input: (C, H, W), normalised.
        box: the part of the picture that it shows.
    """

    input: Tensor
    box: Box


def prepare(picture: Photograph, how: Preprocessing) -> Prepared:
    """Resizes, cuts out and normalises a picture.

    Args:
        picture: in RGB.
        how: of one channel or of three, see `Preprocessing.of_channels`.

    Raises:
        UsageError: it is so much longer than wide that it cannot be resized.
    """
    image: Any = picture.image if len(how.mean) == 3 else picture.image.convert("L")
    width, height = image.size
    new_width, new_height = _resized(width, height, how)
    if new_width * new_height > _MOST_PIXELS or not (new_width and new_height):
        raise UsageError(
            f"{picture.name} is {width} x {height}, and would be resized to"
            f" {new_width} x {new_height}",
            "cut it to the part that matters",
        )
    if (new_width, new_height) != image.size:
        resample = getattr(pillow().Resampling, how.interpolation.upper())
        image = image.resize((new_width, new_height), resample)
    # Half a pixel more or less: rounded as torchvision and timm round it.
    left = _start(new_width, how.size[1])
    top = _start(new_height, how.size[0])
    right, bottom = left + how.size[1], top + how.size[0]
    if left < 0 or top < 0:
        fill = [round(255 * value) for value in how.fill]
        ground = pillow().new(image.mode, how.size[::-1], tuple(fill) if len(fill) > 1 else fill[0])
        ground.paste(image, (-left, -top))
        image = ground
    else:
        image = image.crop((left, top, right, bottom))
    x, y = width / new_width, height / new_height
    box = Box(left * x, top * y, right * x, bottom * y)
    return Prepared(_normalised(image, how), box)


def _start(side: int, wanted: int) -> int:
    """Where the middle part begins; below 0 where it reaches beyond."""
    return round((side - wanted) / 2.0) if side >= wanted else -((wanted - side) // 2)


def _resized(width: int, height: int, how: Preprocessing) -> tuple[int, int]:
    high, wide = how.resize
    if how.fit == "stretch":
        return wide, high
    if how.fit == "shorter" and high == wide:  # to the shorter side, the longer cut off to a whole
        if width <= height:
            return high, int(high * height / width)
        return int(high * width / height), high
    ratios = height / high, width / wide
    ratio = min(ratios) if how.fit == "shorter" else max(ratios)
    return max(1, round(width / ratio)), max(1, round(height / ratio))


def _normalised(image: Any, how: Preprocessing) -> Tensor:
    channels = len(how.mean)
    values = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    values = values.reshape(*how.size, channels).permute(2, 0, 1).contiguous().float().div_(255)
    mean, std = (torch.tensor(one).view(-1, 1, 1) for one in (how.mean, how.std))
    return values.sub_(mean).div_(std)
