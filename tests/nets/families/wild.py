"""Further classifiers, after repositories that many people start from."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class WindowMixer(nn.Module):
    """Liu et al. (Swin-MLP): the positions of a window are mixed by a convolution that takes them
    for channels, in groups, one a head; then an MLP.
    """

    def __init__(self, width: int, size: int, heads: int, window: int = 4) -> None:
        super().__init__()
        self.size, self.heads, self.window = size, heads, window
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        places = heads * window * window
        self.mix = nn.Conv1d(places, places, 1, groups=heads)
        self.fc1, self.fc2 = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, _, c = x.shape
        s, w, many = self.size, self.window, self.size // self.window
        y = self.norm1(x).view(n, many, w, many, w, c).permute(0, 1, 3, 2, 4, 5)
        y = y.reshape(-1, w * w, self.heads, c // self.heads).transpose(1, 2)
        y = self.mix(y.reshape(-1, self.heads * w * w, c // self.heads))
        y = y.view(-1, self.heads, w * w, c // self.heads).transpose(1, 2)
        y = y.reshape(n, many, many, w, w, c).permute(0, 1, 3, 2, 4, 5)
        x = x + y.reshape(n, s * s, c)
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class Merging(nn.Module):
    """Four neighbours beside each other, and a linear layer."""

    def __init__(self, width: int, size: int) -> None:
        super().__init__()
        self.size, self.norm = size, nn.LayerNorm(4 * width)
        self.reduce = nn.Linear(4 * width, 2 * width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        half = self.size // 2
        x = x.view(len(x), half, 2, half, 2, -1).permute(0, 1, 3, 2, 4, 5)
        return self.reduce(self.norm(x.reshape(len(x), half * half, -1)))


class SwinMlp(nn.Module):
    """Tokens that are turned channels first before the pooling, as the official Swin does."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 12, 4, 4)
        self.s1 = nn.Sequential(WindowMixer(12, 16, 3), WindowMixer(12, 16, 3))
        self.merge = Merging(12, 16)
        self.s2 = nn.Sequential(WindowMixer(24, 8, 6), WindowMixer(24, 8, 6))
        self.norm = nn.LayerNorm(24)
        self.fc = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = self.norm(self.s2(self.merge(self.s1(x))))
        return self.fc(F.adaptive_avg_pool1d(x.transpose(1, 2), 1).flatten(1))
