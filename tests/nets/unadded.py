"""Blocks that add nothing back: what changes the shape, concatenates, or only repeats."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Inverted(nn.Module):
    """Expansion, depthwise convolution, linear projection; added where the shape allows it."""

    def __init__(self, channels: int, out: int, stride: int = 1, act: bool = False) -> None:
        super().__init__()
        wide = 2 * channels
        self.conv1, self.bn1 = nn.Conv2d(channels, wide, 1), nn.BatchNorm2d(wide)
        self.conv2 = nn.Conv2d(wide, wide, 3, stride, 1, groups=wide)
        self.bn2 = nn.BatchNorm2d(wide)
        self.conv3, self.bn3 = nn.Conv2d(wide, out, 1), nn.BatchNorm2d(out)
        self.adds = stride == 1 and channels == out
        self.act = nn.ReLU() if act else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn1(self.conv1(x)).relu()
        y = self.bn3(self.conv3(self.bn2(self.conv2(y)).relu()))
        return self.act(x + y if self.adds else y)


class First(nn.Module):
    """A depthwise and a pointwise convolution, of a class of its own."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.depth = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.bn1 = nn.BatchNorm2d(channels)
        self.point, self.bn2 = nn.Conv2d(channels, out, 1), nn.BatchNorm2d(out)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn2(self.point(self.bn1(self.depth(x)).relu()))


class Unit(nn.Module):
    """Two convolutions, a gate on pooled values between them; nothing is added."""

    def __init__(self, channels: int, out: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, stride, 1)
        self.gate = nn.Conv2d(out, out, 1)
        self.conv2 = nn.Conv2d(out, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(x).relu()
        y = y * self.gate(y.mean((2, 3), keepdim=True)).sigmoid()
        return self.conv2(y).relu()


class Gated(nn.Module):
    """One convolution, and a gate of two more on pooled values."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.down, self.up = nn.Conv2d(channels, 2, 1), nn.Conv2d(2, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x).relu()
        return y * self.up(self.down(y.mean((2, 3), keepdim=True)).relu()).sigmoid()


class Stage(nn.Module):
    """Units in a module of its own class, with a pooling at the end."""

    def __init__(self, *units: nn.Module) -> None:
        super().__init__()
        self.units, self.pool = nn.ModuleList(units), nn.MaxPool2d(2, ceil_mode=True)

    def forward(self, x: Tensor) -> Tensor:
        for unit in self.units:
            x = unit(x)
        return self.pool(x)


class Pooled(nn.Module):
    """Two convolutions and the step down behind them."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(channels, out, 3, padding=1), nn.Conv2d(out, out, 1)
        self.pool = nn.MaxPool2d(2, ceil_mode=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(self.conv2(self.conv1(x).relu()).relu())


class Shuffle(nn.Module):
    """One half is computed and concatenated with the other; of a stride both are computed."""

    def __init__(self, channels: int, stride: int = 1) -> None:
        super().__init__()
        half = channels // 2
        inner = half if stride == 1 else channels
        self.stride = stride
        self.light = nn.Sequential(nn.Conv2d(inner, half, 3, stride, 1), nn.ReLU())
        self.heavy = nn.Sequential(
            nn.Conv2d(inner, half, 1), nn.ReLU(),
            nn.Conv2d(half, half, 3, stride, 1), nn.Conv2d(half, half, 1), nn.ReLU(),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        a, b = x.chunk(2, 1) if self.stride == 1 else (self.light(x), x)
        y = torch.cat([a, self.heavy(b)], 1)
        n, c, h, w = y.shape
        return y.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


class Fire(nn.Module):
    """Two computed halves of one squeezed value."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels, 4, 1)
        self.one = nn.Conv2d(4, channels // 2, 1)
        self.three = nn.Conv2d(4, channels // 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.squeeze(x).relu()
        return torch.cat([self.one(x), self.three(x)], 1)


class Dense(nn.Module):
    """Layers; each is given what there is and adds to it by concatenation."""

    def __init__(self, channels: int, growth: int, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Unit(channels + i * growth, growth) for i in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.cat([x, layer(x)], 1)
        return x


class Whole(nn.Module):
    """A stem, the given modules in one row, a classifier."""

    def __init__(self, *modules: nn.Module, channels: int, out: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, channels, 3, 2, 1), nn.ReLU())
        self.features = nn.Sequential(*modules)
        self.fc = nn.Linear(out, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(self.stem(x)).mean((2, 3)))
