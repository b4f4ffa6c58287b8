"""Small residual networks of plain torch, which go wherever torch goes: the base of probes."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Block(nn.Module):
    def __init__(self, inside: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, width, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.act1 = nn.ReLU()
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.shortcut = nn.Identity()
        if stride > 1 or inside != width:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inside, width, 1, stride, bias=False), nn.BatchNorm2d(width)
            )
        self.act2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.act1(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        return self.act2(y + self.shortcut(x))


class Segmenter(nn.Module):
    """Down twice and up again, for what is put at skips.

    Shape:
        x (N, 3, H, W) -> (N, 10, H, W), H and W divisible by 4
    """

    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2, self.down3 = Block(3, 16, 1), Block(16, 32, 2), Block(32, 64, 2)
        self.raise2, self.up2 = nn.ConvTranspose2d(64, 32, 2, 2), Block(64, 32, 1)
        self.raise1, self.up1 = nn.ConvTranspose2d(32, 16, 2, 2), Block(32, 16, 1)
        self.head = nn.Conv2d(16, 10, 1)

    def forward(self, x: Tensor) -> Tensor:
        one = self.down1(x)
        two = self.down2(one)
        y = self.up2(torch.cat([two, self.raise2(self.down3(two))], 1))
        return self.head(self.up1(torch.cat([one, self.raise1(y)], 1)))


class Network(nn.Module):
    """A stage of two blocks, and one of a block.

    Shape:
        x (N, 3, H, W) -> (N, 10)
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 64, 3, 2, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU()
        )
        self.stage1 = nn.Sequential(Block(64, 64, 1), Block(64, 64, 1))
        self.stage2 = nn.Sequential(Block(64, 128, 2))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stage2(self.stage1(self.stem(x)))
        return self.head(self.pool(y).flatten(1))
