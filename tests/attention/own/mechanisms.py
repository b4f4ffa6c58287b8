"""Attention as users write it: what works in every way, and what is wrong with the others."""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn


class Gate(nn.Module):
    """Returns the gate of each channel, (N, C, 1, 1)."""

    def __init__(self, in_planes: int, ratio: int = 4) -> None:
        super().__init__()
        self.squeeze = nn.AdaptiveAvgPool2d(1)
        self.down = nn.Conv2d(in_planes, in_planes // ratio, 1)
        self.up = nn.Conv2d(in_planes // ratio, in_planes, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.up(torch.relu(self.down(self.squeeze(x)))))


class Vector(nn.Module):
    """Returns the gate as (N, C)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.fc(x.mean((2, 3))))


class Mask(nn.Module):
    """Returns the gate of each position, (N, 1, H, W)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(dim, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.conv(x))


class Map(nn.Module):
    """Returns the new map."""

    def __init__(self, channels: int, k: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, k, padding=k // 2, groups=channels)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.conv(x))


class Fuse(nn.Module):
    """Takes branch and shortcut, as what replaces an addition does."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 1)

    def forward(self, branch: Tensor, shortcut: Tensor) -> Tensor:
        gate = torch.sigmoid(self.conv(branch + shortcut))
        return gate * branch + (1 - gate) * shortcut


class Volume(nn.Module):
    """Of clips and volumes alone."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x)


class Signal(nn.Module):
    """Of signals alone."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(channels, channels, 3, padding=1, groups=channels)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.conv(x))


class Tied(nn.Module):
    """Has a weight for every position."""

    def __init__(self, c: int, height: int = 14, width: int = 14) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(c, height, width))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.bias)


class Staged(nn.Module):
    """Asks for the stage that it is in."""

    def __init__(self, channels: int, stage: int) -> None:
        super().__init__()
        self.stage = stage
        self.conv = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) / self.stage


class LooksAtValues(nn.Module):
    """Cannot be run without numbers."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) * (2.0 if x.mean().item() > 1e9 else 1.0)


class LooksAtItsOwn(Map):
    """Its constructor looks at values, which there are none of on the meta device."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.rates = torch.linspace(0, 1, 3).tolist()


class Remembers(Map):
    """Keeps what it last saw."""

    def forward(self, x: Tensor) -> Tensor:
        self.seen = tuple(x.shape)
        return super().forward(x)


class Masked(Map):
    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return x * mask


class NeedsHeads(Map):
    def __init__(self, channels: int, heads: int) -> None:
        super().__init__(channels)


class Raises(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 1, groups=7)


Raises.forward = Map.forward  # type: ignore[method-assign]


class Halves(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pool = nn.AvgPool2d(2, ceil_mode=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(x)


class NotAlone(Vector):
    """Squeezes, so that a single image loses its axis too."""

    def forward(self, x: Tensor) -> Tensor:
        gate = self.fc(x.mean((2, 3), keepdim=True).squeeze())
        return x * gate[:, :, None, None]


class Tuple(Map):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


class Nothing(Map):
    def forward(self, x: Tensor) -> None:
        return None


class InPlace(Map):
    def forward(self, x: Tensor) -> Tensor:
        return x.mul_(2)


class Three(Map):
    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return q


class NoForward(nn.Module):
    pass


class NoModule:
    pass


class Lazy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.LazyConv2d(32, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


def by_mean(x: Tensor, scale: float = 1.0) -> Tensor:
    """A gate without parameters."""
    return torch.sigmoid(scale * x.mean((2, 3), keepdim=True))


def make(channels: int, k: int = 5) -> nn.Module:
    return Map(channels, k)


def makes_a_number(channels: int) -> int:
    return channels


built = Map(32)
NUMBER = 7
wide = functools.partial(Map, k=7)
