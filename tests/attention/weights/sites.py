"""The convolutions of a ResNet-50, in shape: every published total is a sum over some of them."""

from __future__ import annotations

import torch
from torch import nn


def resnet50_convs() -> list[nn.Conv2d]:
    """Returns all 53 convolutions, without memory behind them."""
    with torch.device("meta"):
        convs = [nn.Conv2d(3, 64, 7, bias=False)]
        inputs = 64
        for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
            convs.append(nn.Conv2d(inputs, 4 * width, 1, bias=False))  # the shortcut's
            for _ in range(blocks):
                convs.append(nn.Conv2d(inputs, width, 1, bias=False))
                convs.append(nn.Conv2d(width, width, 3, bias=False))
                convs.append(nn.Conv2d(width, 4 * width, 1, bias=False))
                inputs = 4 * width
    return convs
