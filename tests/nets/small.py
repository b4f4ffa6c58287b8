"""A residual network of a few thousand numbers in which every kind of attention finds its place."""

import torch
from torch import nn

from attnsurgeon.recording.randomness import OwnDice

SIZE = (3, 16, 16)


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)
        self.conv2, self.norm2 = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)
        self.act = nn.ReLU()
        self.last = nn.ReLU()

    def forward(self, x):
        y = self.act(self.norm1(self.conv1(x)))
        return self.last(x + self.norm2(self.conv2(y)))


class Small(nn.Module):
    def __init__(self, width=8, blocks=2, classes=5):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.blocks = nn.Sequential(*(Block(width) for _ in range(blocks)))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(width, classes)

    def forward(self, x):
        return self.fc(self.pool(self.blocks(self.stem(x))).flatten(1))


def small(seed=0, **sizes):
    """The network with the weights of a seed, in eval mode."""
    generator = torch.Generator().manual_seed(seed)
    with OwnDice():
        net = Small(**sizes).eval()
    for tensor in (*net.parameters(), *(b for n, b in net.named_buffers() if "running" in n)):
        tensor.data.copy_(torch.rand(tensor.shape, generator=generator) * 0.5 + 0.1)
    return net
