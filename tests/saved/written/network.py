"""The network of the folders, pickles and exported files beside this file; never changed."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Block(nn.Module):
    """relu(shortcut(x) + norm(conv(relu(norm(conv(x)))))), with a projection where it strides."""

    def __init__(self, inside: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.act1 = nn.ReLU()
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.act2 = nn.ReLU()
        self.shortcut = None
        if stride != 1 or inside != width:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inside, width, 1, stride, bias=False), nn.BatchNorm2d(width)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.act1(self.bn1(self.conv1(x)))))
        return self.act2(y + (x if self.shortcut is None else self.shortcut(x)))


class Network(nn.Module):
    """A stem, stages of two, two and one block with 16, 16 and 24 channels, and a classifier."""

    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 16, 3, 2, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()
        )
        self.layer1 = nn.Sequential(Block(16, 16, 1), Block(16, 16, 1))
        self.layer2 = nn.Sequential(Block(16, 16, 2), Block(16, 16, 1))
        self.layer3 = nn.Sequential(Block(16, 24, 2))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(24, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer3(self.layer2(self.layer1(self.stem(x))))
        return self.fc(self.pool(x).flatten(1))


def make(classes: int = 5) -> Network:
    """The network with random weights."""
    return Network(classes)


def fixed() -> Network:
    """The network with weights that are the same on every machine: the base of the adapters."""
    network = Network()
    for at, (_, tensor) in enumerate(sorted(network.state_dict().items())):
        if tensor.is_floating_point():
            steps = torch.arange(tensor.numel(), dtype=torch.float64).reshape(tensor.shape)
            tensor.copy_(((steps * 7919 + at * 104729) % 1009) / 1009 * 0.2 + 0.01)
    return network


def image() -> Tensor:
    """The input (3, 3, 32, 24) of the outputs that are kept."""
    steps = torch.arange(3 * 3 * 32 * 24, dtype=torch.float64).reshape(3, 3, 32, 24)
    return (((steps * 7919) % 1009) / 1009 - 0.5).float()
