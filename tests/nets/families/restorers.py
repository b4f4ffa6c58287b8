"""Restoration: one long shortcut, residuals of residuals, pixels shuffled at the end."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.nets.families.parts import Block, cbr


class Group(nn.Module):
    """RCAN's residual group: blocks and a convolution, plus what came in."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(Block(width, width), Block(width, width))
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(self.blocks(x))


class Rcan(nn.Module):
    """Zhang et al.: a residual of residual groups, then a shuffle to twice the size."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.body = nn.Conv2d(3, 8, 3, padding=1), nn.Sequential(Group(8), Group(8))
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.upscale = nn.Sequential(nn.Conv2d(8, 32, 3, padding=1), nn.PixelShuffle(2))
        self.tail = nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.head(x)
        x = x + self.conv(self.body(x))
        return self.tail(self.upscale(x))


class Espcn(nn.Module):
    """Shi et al.: the last convolution makes all pixels, which a shuffle sets in place."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(cbr(3, 8, kernel=5), cbr(8, 8))
        self.last, self.shuffle = nn.Conv2d(8, 12, 3, padding=1), nn.PixelShuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.shuffle(self.last(self.body(x)))


class DnCnn(nn.Module):
    """Zhang et al.: the network finds the noise, which is taken from the image."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(cbr(3, 8), cbr(8, 8), cbr(8, 8))
        self.last = nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x - self.last(self.body(x))


class Restormer(nn.Module):
    """A U of blocks between pixel shuffles, added to the image."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.enc1 = (
            nn.Conv2d(3, 8, 3, padding=1),
            nn.Sequential(Block(8, 8), Block(8, 8)),
        )
        self.down1 = nn.Sequential(nn.Conv2d(8, 4, 3, padding=1), nn.PixelUnshuffle(2))
        self.enc2 = nn.Sequential(Block(16, 16), Block(16, 16))
        self.down2 = nn.Sequential(nn.Conv2d(16, 8, 3, padding=1), nn.PixelUnshuffle(2))
        self.latent = nn.Sequential(Block(32, 32), Block(32, 32))
        self.up2 = nn.Sequential(nn.Conv2d(32, 64, 3, padding=1), nn.PixelShuffle(2))
        self.dec2 = nn.Sequential(Block(16, 16), Block(16, 16))
        self.up1 = nn.Sequential(nn.Conv2d(16, 32, 3, padding=1), nn.PixelShuffle(2))
        self.dec1, self.out = nn.Sequential(Block(8, 8), Block(8, 8)), nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        one = self.enc1(self.embed(x))
        two = self.enc2(self.down1(one))
        y = self.latent(self.down2(two))
        y = self.dec2(self.up2(y) + two)
        return self.out(self.dec1(self.up1(y) + one)) + x


class WrappedU(nn.Module):
    """A U with one long shortcut from the first value to the last: x + net(x)."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.a = cbr(3, 8), Block(8, 8)
        self.down1, self.b = cbr(8, 16, 2), Block(16, 16)
        self.down2, self.c = cbr(16, 24, 2), Block(24, 24)
        self.up2, self.d = nn.ConvTranspose2d(24, 16, 2, 2), Block(16, 16)
        self.up1, self.e = nn.ConvTranspose2d(16, 8, 2, 2), Block(8, 8)
        self.last = nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        first = self.first(x)
        one = self.a(first)
        two = self.b(self.down1(one))
        y = self.d(self.up2(self.c(self.down2(two))) + two)
        y = self.e(self.up1(y) + one)
        return self.last(F.relu(y + first))


class SrResNet(nn.Module):
    """Ledig et al.: one long shortcut over the blocks, two shuffles to four times the size."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 8, 9, padding=4), nn.PReLU())
        self.body = nn.Sequential(Block(8, 8), Block(8, 8))
        self.conv = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8))
        self.upscale = nn.Sequential(*(
            nn.Sequential(nn.Conv2d(8, 32, 3, padding=1), nn.PixelShuffle(2), nn.PReLU())
            for _ in range(2)
        ))  # fmt: skip
        self.last = nn.Conv2d(8, 3, 9, padding=4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.last(self.upscale(x + self.conv(self.body(x))))


class DenseBlock(nn.Module):
    """RDN's: dense convolutions, made narrow again and added to what came in."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(16, 8, 3, padding=1)
        self.narrow = nn.Conv2d(24, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.cat([x, F.relu(self.one(x))], 1)
        return x + self.narrow(torch.cat([y, F.relu(self.two(y))], 1))


class Rdn(nn.Module):
    """Zhang et al.: what all dense blocks give is laid side by side, then the long shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.blocks = nn.ModuleList([DenseBlock(), DenseBlock(), DenseBlock()])
        self.fuse = nn.Sequential(nn.Conv2d(24, 8, 1), nn.Conv2d(8, 8, 3, padding=1))
        self.upscale = nn.Sequential(nn.Conv2d(8, 32, 3, padding=1), nn.PixelShuffle(2))
        self.last = nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        first = self.first(x)
        y, made = self.second(first), []
        for block in self.blocks:
            y = block(y)
            made.append(y)
        return self.last(self.upscale(self.fuse(torch.cat(made, 1)) + first))
