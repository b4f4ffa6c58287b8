"""The 3x3 convolutions of known networks that published totals are about."""

from __future__ import annotations

import torch
from torch import nn

from tests.attention.gates.sites import RESNET50

__all__ = ["RESNET50", "RESNET50_WIDTHS", "RESNEXT50", "RESNEXT50_WIDTHS", "conv3x3"]

RESNET50_WIDTHS = [64] * 3 + [128] * 4 + [256] * 6 + [512] * 3
RESNEXT50_WIDTHS = [2 * width for width in RESNET50_WIDTHS]
RESNEXT50 = 25_028_904  # parameters of the 32x4d one, 1000 classes


def conv3x3(width: int, groups: int = 1) -> nn.Conv2d:
    """Returns a convolution without memory behind it."""
    with torch.device("meta"):
        return nn.Conv2d(width, width, 3, padding=1, groups=groups, bias=False)
