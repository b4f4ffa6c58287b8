"""Plain networks with skips, as others have them, for those of their mechanisms that gate skips."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def twice(inside: int, outside: int) -> nn.Sequential:
    """Two 3x3 convolutions, each with a norm and a ReLU."""
    return nn.Sequential(*once(inside, outside), *once(outside, outside))


def once(inside: int, outside: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(inside, outside, 3, padding=1), nn.BatchNorm2d(outside), nn.ReLU()


class UNet(nn.Module):
    """Down four times by pooling, up by the nearest neighbour and a 3x3 convolution.

    Shape:
        x (N, 3, H, W) -> (N, 1, H, W), H and W divisible by 16
    """

    def __init__(self) -> None:
        super().__init__()
        self.pool, widths = nn.MaxPool2d(2), (64, 128, 256, 512, 1024)
        pairs = list(zip((3, *widths), widths, strict=False))
        self.down = nn.ModuleList(twice(a, b) for a, b in pairs)
        self.raised = nn.ModuleList(
            nn.Sequential(nn.Upsample(scale_factor=2), *once(b, a)) for a, b in pairs[:0:-1]
        )
        self.up = nn.ModuleList(twice(2 * a, a) for a, _ in pairs[:0:-1])
        self.out = nn.Conv2d(64, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        one = self.down[0](x)
        two = self.down[1](self.pool(one))
        three = self.down[2](self.pool(two))
        four = self.down[3](self.pool(three))
        y = self.down[4](self.pool(four))
        y = self.up[0](torch.cat([four, self.raised[0](y)], 1))
        y = self.up[1](torch.cat([three, self.raised[1](y)], 1))
        y = self.up[2](torch.cat([two, self.raised[2](y)], 1))
        return self.out(self.up[3](torch.cat([one, self.raised[3](y)], 1)))


def u_net() -> UNet:
    """34,527,041 parameters, as LeeJunHyun's U_Net."""
    return UNet()
