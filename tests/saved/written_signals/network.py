"""The network of signals (N, 3, L) of the folders beside this file; never changed."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Block(nn.Module):
    """relu(shortcut(x) + norm(conv(relu(norm(conv(x)))))), with a projection where it strides."""

    def __init__(self, inside: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(inside, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm1d(width)
        self.act1 = nn.ReLU()
        self.conv2 = nn.Conv1d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm1d(width)
        self.act2 = nn.ReLU()
        self.shortcut = None
        if stride != 1 or inside != width:
            self.shortcut = nn.Sequential(
                nn.Conv1d(inside, width, 1, stride, bias=False), nn.BatchNorm1d(width)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.act1(self.bn1(self.conv1(x)))))
        return self.act2(y + (x if self.shortcut is None else self.shortcut(x)))


class Network(nn.Module):
    """A stem, two stages of two and one block with 16 and 24 channels, and a classifier."""

    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv1d(3, 16, 7, 2, padding=3, bias=False), nn.BatchNorm1d(16), nn.ReLU()
        )
        self.layer1 = nn.Sequential(Block(16, 16, 1), Block(16, 16, 1))
        self.layer2 = nn.Sequential(Block(16, 24, 2))
        self.pool = nn.AdaptiveAvgPool1d(1)
        self.fc = nn.Linear(24, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.pool(self.layer2(self.layer1(self.stem(x)))).flatten(1))


def make(classes: int = 5) -> Network:
    """The network with random weights."""
    return Network(classes)


def signal() -> Tensor:
    """The input (3, 3, 60) of the outputs that are kept."""
    steps = torch.arange(3 * 3 * 60, dtype=torch.float64).reshape(3, 3, 60)
    return (((steps * 7919) % 1009) / 1009 - 0.5).float()
