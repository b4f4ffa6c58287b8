"""Detectors: pyramids, and heads that look at several resolutions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.nets.families.parts import Block, ResNet, cbr


class Anchored(nn.Module):
    """YOLOv5's head: one pointwise convolution a resolution; gives values of rank 5."""

    def __init__(self, *widths: int) -> None:
        super().__init__()
        self.m = nn.ModuleList(nn.Conv2d(width, 2 * 7, 1) for width in widths)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        made = []
        for conv, one in zip(self.m, maps, strict=True):
            batch, _, height, width = one.shape
            made.append(conv(one).view(batch, 2, 7, height, width).permute(0, 1, 3, 4, 2))
        return made


class Decoupled(nn.Module):
    """YOLOX's and YOLOv8's head: two branches a resolution, behind a stem or none; a list of
    boxes of all resolutions.
    """

    def __init__(self, *widths: int, stem: bool) -> None:
        super().__init__()
        self.stems = nn.ModuleList(cbr(w, 8, kernel=1) if stem else nn.Identity() for w in widths)
        inside = [8 if stem else width for width in widths]
        self.cls = nn.ModuleList(nn.Sequential(cbr(w, 8), nn.Conv2d(8, 3, 1)) for w in inside)
        self.reg = nn.ModuleList(nn.Sequential(cbr(w, 8), nn.Conv2d(8, 4, 1)) for w in inside)

    def forward(self, maps: list[Tensor]) -> Tensor:
        made = []
        for stem, cls, reg, one in zip(self.stems, self.cls, self.reg, maps, strict=True):
            one = stem(one)
            made.append(torch.cat([reg(one), cls(one).sigmoid()], 1).flatten(2))
        return torch.cat(made, 2).permute(0, 2, 1)


class C2f(nn.Module):
    """A stage of YOLOv8: split, blocks, concatenation, a pointwise convolution."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        half = outside // 2
        self.cv1, self.m = cbr(inside, outside, kernel=1), nn.ModuleList([Block(half, half)])
        self.cv2 = cbr(3 * half, outside, kernel=1)

    def forward(self, x: Tensor) -> Tensor:
        parts = list(self.cv1(x).chunk(2, 1))
        parts.extend(m(parts[-1]) for m in self.m)
        return self.cv2(torch.cat(parts, 1))


class Sppf(nn.Module):
    """Poolings of stride 1, one behind the other."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.cv1, self.cv2 = cbr(width, width // 2, kernel=1), cbr(2 * width, width, kernel=1)

    def forward(self, x: Tensor) -> Tensor:
        made = [self.cv1(x)]
        for _ in range(3):
            made.append(F.max_pool2d(made[-1], 5, 1, 2))
        return self.cv2(torch.cat(made, 1))


class Yolo(nn.Module):
    """A path aggregation network between a backbone and a head, everything in one forward.

    YOLOv8 raises the last map as it is; YOLOv5 and YOLOX make it narrower first.
    """

    def __init__(self, head: str) -> None:
        super().__init__()
        self.stem, self.lateral = cbr(3, 8, 2), head != "v8"
        self.c2 = nn.Sequential(cbr(8, 16, 2), C2f(16, 16))
        self.c3 = nn.Sequential(cbr(16, 24, 2), C2f(24, 24))
        self.c4 = nn.Sequential(cbr(24, 32, 2), C2f(32, 32))
        self.c5 = nn.Sequential(cbr(32, 40, 2), C2f(40, 40), Sppf(40))
        self.lat5 = cbr(40, 32, kernel=1) if self.lateral else nn.Identity()
        wide = 32 if self.lateral else 40
        self.p4, self.p3 = C2f(wide + 32, 32), C2f(32 + 24, 24)
        self.down3, self.n4 = cbr(24, 24, 2), C2f(24 + 32, 32)
        self.down4, self.n5 = cbr(32, 32, 2), C2f(32 + wide, 40)
        heads = {"v8": lambda: Decoupled(24, 32, 40, stem=False),
                 "x": lambda: Decoupled(24, 32, 40, stem=True),
                 "v5": lambda: Anchored(24, 32, 40)}  # fmt: skip
        self.detect = heads[head]()

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        c3 = self.c3(self.c2(self.stem(x)))
        c4 = self.c4(c3)
        lat5 = self.lat5(self.c5(c4))
        p4 = self.p4(torch.cat([F.interpolate(lat5, scale_factor=2.0), c4], 1))
        p3 = self.p3(torch.cat([F.interpolate(p4, scale_factor=2.0), c3], 1))
        n4 = self.n4(torch.cat([self.down3(p3), p4], 1))
        n5 = self.n5(torch.cat([self.down4(n4), lat5], 1))
        return self.detect([p3, n4, n5])


class Fpn(nn.Module):
    """Lin et al.: lateral convolutions, sums on the way up, a convolution for each level."""

    def __init__(self, further: str = "") -> None:
        super().__init__()
        self.body, self.further = ResNet(), further
        self.lateral = nn.ModuleList(nn.Conv2d(width, 16, 1) for width in (24, 32, 40))
        self.smooth = nn.ModuleList(nn.Conv2d(16, 16, 3, padding=1) for _ in range(3))
        self.p6 = nn.Conv2d(40, 16, 3, 2, 1)
        self.cls = nn.Sequential(cbr(16, 16), nn.Conv2d(16, 3, 3, padding=1))
        self.box = nn.Sequential(cbr(16, 16), nn.Conv2d(16, 4, 3, padding=1))

    def forward(self, x: Tensor) -> list[Tensor]:
        _, two, three, four = self.body(x)
        p5 = self.lateral[2](four)
        p4 = self.lateral[1](three) + F.interpolate(p5, scale_factor=2.0)
        p3 = self.lateral[0](two) + F.interpolate(p4, scale_factor=2.0)
        levels = [conv(p) for conv, p in zip(self.smooth, (p3, p4, p5), strict=True)]
        if self.further:
            levels.append(self.p6(four))
        return [head(level) for level in levels for head in (self.cls, self.box)]


class Ssd(nn.Module):
    """Liu et al.: heads on the maps of a network that only goes down."""

    def __init__(self) -> None:
        super().__init__()
        self.c2, self.c3 = nn.Sequential(cbr(3, 8, 2), cbr(8, 16, 2)), Block(16, 24, 2)
        self.c4, self.c5 = Block(24, 32, 2), Block(32, 40, 2)
        self.head = nn.ModuleList(nn.Conv2d(w, 2 * 7, 3, padding=1) for w in (24, 32, 40))

    def forward(self, x: Tensor) -> Tensor:
        c3 = self.c3(self.c2(x))
        c4 = self.c4(c3)
        made = [head(one) for head, one in zip(self.head, (c3, c4, self.c5(c4)), strict=True)]
        return torch.cat(
            [one.permute(0, 2, 3, 1).flatten(1).view(len(x), -1, 7) for one in made], 1
        )
