"""What the families are made of."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


def cbr(inside: int, outside: int, stride: int = 1, kernel: int = 3, spread: int = 1) -> nn.Module:
    padding = spread * (kernel // 2)
    conv = nn.Conv2d(inside, outside, kernel, stride, padding, spread, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outside), nn.ReLU())


def twice(inside: int, outside: int) -> nn.Sequential:
    return nn.Sequential(cbr(inside, outside), cbr(outside, outside))


def up(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, size=like.shape[2:], mode="bilinear")


class Block(nn.Module):
    """A residual block, strided or dilated where it is told to."""

    def __init__(self, inside: int, outside: int, stride: int = 1, spread: int = 1) -> None:
        super().__init__()
        self.one = cbr(inside, outside, stride, spread=spread)
        conv = nn.Conv2d(outside, outside, 3, 1, spread, spread, bias=False)
        self.two = nn.Sequential(conv, nn.BatchNorm2d(outside))
        self.short = nn.Sequential()
        if stride > 1 or inside != outside:
            conv = nn.Conv2d(inside, outside, 1, stride, bias=False)
            self.short = nn.Sequential(conv, nn.BatchNorm2d(outside))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.two(self.one(x)) + self.short(x))


class Classifier(nn.Module):
    """Whatever the parts are, then pooling and a linear layer."""

    def __init__(self, width: int, **parts: nn.Module) -> None:
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)
        self.names = tuple(parts)
        self.fc = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        for name in self.names:
            x = self.get_submodule(name)(x)
        return self.fc(x.mean((2, 3)))


class ResNet(nn.Module):
    """Four stages of two blocks; gives the maps of all of them. Stage 1 is at a quarter."""

    def __init__(self, *strides: int, spread: tuple[int, ...] = (1, 1, 1, 1)) -> None:
        super().__init__()
        strides = strides or (1, 2, 2, 2)
        self.stem = nn.Sequential(cbr(3, 8, 2), nn.MaxPool2d(3, 2, 1))
        widths = (8, 16, 24, 32, 40)
        for i, stride in enumerate(strides):
            first = Block(widths[i], widths[i + 1], stride, max(1, spread[i] // 2))
            rest = Block(widths[i + 1], widths[i + 1], 1, spread[i])
            self.add_module(f"layer{i + 1}", nn.Sequential(first, rest))

    def forward(self, x: Tensor) -> list[Tensor]:
        maps, x = [], self.stem(x)
        for i in range(1, 5):
            x = self.get_submodule(f"layer{i}")(x)
            maps.append(x)
        return maps
