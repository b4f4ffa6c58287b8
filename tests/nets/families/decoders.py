"""Decoders: Us as most people write them, gated skips, unpooling, sums, no skips at all."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.nets.families.parts import Block, ResNet, cbr, twice, up
from tests.nets.families.segmenters import Aspp


class Double(nn.Module):
    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        self.layers = twice(inside, outside)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class Down(nn.Module):
    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.MaxPool2d(2), Double(inside, outside))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class Up(nn.Module):
    """Upsampling, padding to the other's size, concatenation, two convolutions."""

    def __init__(self, inside: int, outside: int, transposed: bool) -> None:
        super().__init__()
        half = inside // 2
        self.up = (nn.ConvTranspose2d(inside, half, 2, 2) if transposed
                   else nn.Upsample(scale_factor=2, mode="bilinear"))  # fmt: skip
        self.conv = Double(inside if transposed else inside + outside, outside)

    def forward(self, low: Tensor, skip: Tensor) -> Tensor:
        low = self.up(low)
        dy, dx = skip.shape[2] - low.shape[2], skip.shape[3] - low.shape[3]
        low = F.pad(low, [dx // 2, dx - dx // 2, dy // 2, dy - dy // 2])
        return self.conv(torch.cat([skip, low], 1))


class UNetOfModules(nn.Module):
    """A U of modules that are named down and up."""

    def __init__(self, transposed: bool) -> None:
        super().__init__()
        self.inc, self.down1, self.down2 = Double(3, 8), Down(8, 16), Down(16, 32)
        self.down3 = Down(32, 64)
        self.up1, self.up2, self.up3 = (Up(w, w // 2, transposed) for w in (64, 32, 16))
        self.outc = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        one = self.inc(x)
        two = self.down1(one)
        three = self.down2(two)
        y = self.up1(self.down3(three), three)
        return self.outc(self.up3(self.up2(y, two), one))


class Gate(nn.Module):
    """Oktay et al.: what comes up says which positions of the skip go through."""

    def __init__(self, low: int, skip: int) -> None:
        super().__init__()
        self.g, self.x, self.psi = (
            nn.Conv2d(low, 8, 1), nn.Conv2d(skip, 8, 1), nn.Conv2d(8, 1, 1),
        )  # fmt: skip

    def forward(self, low: Tensor, skip: Tensor) -> Tensor:
        return skip * torch.sigmoid(self.psi(F.relu(self.g(low) + self.x(skip))))


class AttentionUNet(nn.Module):
    """Oktay et al.: a gate on each skip, before the concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.c1, self.c2, self.c3 = twice(3, 8), twice(8, 16), twice(16, 24)
        self.raise2 = nn.Sequential(nn.Upsample(scale_factor=2), cbr(24, 16))
        self.raise1 = nn.Sequential(nn.Upsample(scale_factor=2), cbr(16, 8))
        self.gate2, self.gate1 = Gate(16, 16), Gate(8, 8)
        self.d2, self.d1, self.out = twice(32, 16), twice(16, 8), nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        one = self.c1(x)
        two = self.c2(F.max_pool2d(one, 2))
        y = self.raise2(self.c3(F.max_pool2d(two, 2)))
        y = self.d2(torch.cat([self.gate2(y, two), y], 1))
        y = self.raise1(y)
        return self.out(self.d1(torch.cat([self.gate1(y, one), y], 1)))


class VNet(nn.Module):
    """Milletari et al.: residual blocks, strided and transposed convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.enc1, self.enc2, self.enc3 = Block(3, 8), Block(16, 16), Block(24, 24)
        self.down1 = nn.Sequential(nn.Conv2d(8, 16, 2, 2), nn.BatchNorm2d(16), nn.PReLU())
        self.down2 = nn.Sequential(nn.Conv2d(16, 24, 2, 2), nn.BatchNorm2d(24), nn.PReLU())
        self.up2 = nn.Sequential(nn.ConvTranspose2d(24, 16, 2, 2), nn.BatchNorm2d(16), nn.PReLU())
        self.up1 = nn.Sequential(nn.ConvTranspose2d(32, 8, 2, 2), nn.BatchNorm2d(8), nn.PReLU())
        self.dec2, self.dec1, self.out = Block(32, 32), Block(16, 16), nn.Conv2d(16, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        one = self.enc1(x)
        two = self.enc2(self.down1(one))
        y = self.up2(self.enc3(self.down2(two)))
        y = self.up1(self.dec2(torch.cat([y, two], 1)))
        return self.out(self.dec1(torch.cat([y, one], 1))).softmax(1)


class SegNet(nn.Module):
    """Badrinarayanan et al.: the poolings' positions cross over, and no values."""

    def __init__(self) -> None:
        super().__init__()
        self.e1, self.e2, self.e3 = twice(3, 8), twice(8, 16), twice(16, 24)
        self.d3, self.d2, self.d1 = twice(24, 16), twice(16, 8), cbr(8, 8)
        self.score = nn.Conv2d(8, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x, one = F.max_pool2d(self.e1(x), 2, return_indices=True)
        x, two = F.max_pool2d(self.e2(x), 2, return_indices=True)
        x, three = F.max_pool2d(self.e3(x), 2, return_indices=True)
        x = self.d3(F.max_unpool2d(x, three, 2))
        x = self.d2(F.max_unpool2d(x, two, 2))
        return self.score(self.d1(F.max_unpool2d(x, one, 2)))


def link(inside: int, outside: int) -> nn.Module:
    half = inside // 4
    raised = nn.ConvTranspose2d(half, half, 2, 2)
    middle = nn.Sequential(raised, nn.BatchNorm2d(half), nn.ReLU())
    return nn.Sequential(cbr(inside, half, kernel=1), middle, cbr(half, outside, kernel=1))


class LinkNet(nn.Module):
    """Chaurasia and Culurciello: what the encoder has is added to what comes up."""

    def __init__(self) -> None:
        super().__init__()
        self.body = ResNet()
        self.dec4, self.dec3 = link(40, 32), link(32, 24)
        self.dec2, self.dec1 = link(24, 16), link(16, 8)
        self.final = nn.Sequential(
            nn.ConvTranspose2d(8, 8, 2, 2), nn.ReLU(), nn.Conv2d(8, 2, 3, 1, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        one, two, three, four = self.body(x)
        y = self.dec4(four) + three
        y = self.dec3(y) + two
        y = self.dec2(y) + one
        return self.final(self.dec1(y))


class Unit(nn.Module):
    """A residual unit with its activations first."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.two(F.relu(self.one(F.relu(x))))


class Fusing(nn.Module):
    """RefineNet's: a unit for each input, their sum, a pooled residual, a unit."""

    def __init__(self, inside: int, deepest: bool = False) -> None:
        super().__init__()
        self.adapt, self.enter, self.out = nn.Conv2d(inside, 16, 3, padding=1), Unit(), Unit()
        self.high = nn.Conv2d(16, 16, 3, padding=1)
        self.low = None if deepest else nn.Conv2d(16, 16, 3, padding=1)
        self.chain = nn.Conv2d(16, 16, 3, padding=1)

    def forward(self, high: Tensor, low: Tensor | None = None) -> Tensor:
        high = self.enter(self.adapt(high))
        if low is not None and self.low is not None:
            high = self.high(high) + up(self.low(low), high)
        high = high + self.chain(F.max_pool2d(F.relu(high), 5, 1, 2))
        return self.out(high)


class RefineNet(nn.Module):
    """Lin et al.: each resolution is refined by the one below it."""

    def __init__(self) -> None:
        super().__init__()
        self.body = ResNet()
        self.fuse4, self.fuse3 = Fusing(40, deepest=True), Fusing(32)
        self.fuse2, self.fuse1, self.score = Fusing(24), Fusing(16), nn.Conv2d(16, 2, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        one, two, three, four = self.body(x)
        y = self.fuse3(three, self.fuse4(four))
        return up(self.score(self.fuse1(one, self.fuse2(two, y))), x)


class UPerNet(nn.Module):
    """Xiao et al.: a pyramid of poolings, then a pyramid of features, all fused at the finest."""

    def __init__(self) -> None:
        super().__init__()
        self.body = ResNet()
        self.bins = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(size), cbr(40, 16, kernel=1)) for size in (1, 2, 3)
        )
        self.bottleneck = cbr(88, 16)
        self.lateral = nn.ModuleList(cbr(width, 16, kernel=1) for width in (16, 24, 32))
        self.fpn = nn.ModuleList(cbr(16, 16) for _ in range(3))
        self.fuse, self.score = cbr(64, 16), nn.Conv2d(16, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        *maps, last = self.body(x)
        pooled = [up(one(last), last) for one in self.bins]
        top = self.bottleneck(torch.cat([last, *pooled], 1))
        one, two, three = (conv(m) for conv, m in zip(self.lateral, maps, strict=True))
        three = three + up(top, three)
        two = two + up(three, two)
        one = one + up(two, one)
        made = [conv(m) for conv, m in zip(self.fpn, (one, two, three), strict=True)]
        wide = [made[0], *(up(m, one) for m in (*made[1:], top))]
        return up(self.score(self.fuse(torch.cat(wide, 1))), x)


class ConvNextBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.dw, self.norm = nn.Conv2d(width, width, 7, 1, 3, groups=width), nn.LayerNorm(width)
        self.pw1, self.pw2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.dw(x).permute(0, 2, 3, 1))
        return x + self.pw2(F.gelu(self.pw1(y))).permute(0, 3, 1, 2)


class ConvNext(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        widths = (8, 16, 24, 32)
        steps = [nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.GroupNorm(1, 8))]
        steps += [nn.Sequential(nn.GroupNorm(1, a), nn.Conv2d(a, b, 2, 2))
                  for a, b in pairwise(widths)]  # fmt: skip
        self.steps = nn.ModuleList(steps)
        self.stages = nn.ModuleList(
            nn.Sequential(ConvNextBlock(w), ConvNextBlock(w)) for w in widths
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        for step, stage in zip(self.steps, self.stages, strict=True):
            x = stage(step(x))
            maps.append(x)
        return maps


class Raised(nn.Module):
    def __init__(self, low: int, skip: int, outside: int) -> None:
        super().__init__()
        self.conv = twice(low + skip, outside)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        x = F.interpolate(x, scale_factor=2.0, mode="nearest")
        return self.conv(torch.cat([x, skip], 1))


class ConvNextUNet(nn.Module):
    """A ConvNeXt for an encoder: the finest skip stands at a quarter of the image."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = ConvNext()
        self.decoder = nn.ModuleList([Raised(32, 24, 24), Raised(24, 16, 16), Raised(16, 8, 8)])
        self.head = nn.Sequential(nn.Conv2d(8, 2, 3, padding=1), nn.Upsample(scale_factor=4))

    def forward(self, x: Tensor) -> Tensor:
        *skips, y = self.encoder(x)
        for block, skip in zip(self.decoder, reversed(skips), strict=True):
            y = block(y, skip)
        return self.head(y)


def separable(inside: int, outside: int, stride: int = 1, spread: int = 1) -> nn.Module:
    spatial = nn.Conv2d(inside, inside, 3, stride, spread, spread, inside, bias=False)
    return nn.Sequential(spatial, nn.Conv2d(inside, outside, 1), nn.BatchNorm2d(outside), nn.ReLU())


class XBlock(nn.Module):
    """Xception's: three separable convolutions beside a pointwise one."""

    def __init__(self, inside: int, outside: int, stride: int = 1) -> None:
        super().__init__()
        self.body = nn.Sequential(
            separable(inside, outside),
            separable(outside, outside),
            separable(outside, outside, stride),
        )
        plain = stride == 1 and inside == outside
        self.short = nn.Identity() if plain else nn.Conv2d(inside, outside, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) + self.short(x)


class Xception(nn.Module):
    """Chollet; of output stride 16: what follows the exit flow's first block is dilated."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = cbr(3, 8, 2), cbr(8, 8)
        self.block1, self.block2, self.block3 = (
            XBlock(8, 16, 2),
            XBlock(16, 24, 2),
            XBlock(24, 32, 2),
        )
        self.block4, self.block5, self.block6 = XBlock(32, 32), XBlock(32, 32), XBlock(32, 40)
        self.conv3, self.conv4 = separable(40, 48, spread=2), separable(48, 48, spread=2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        low = self.block1(self.conv2(self.conv1(x)))
        x = self.block5(self.block4(self.block3(self.block2(low))))
        return low, self.conv4(self.conv3(self.block6(x)))


class XceptionDeepLab(nn.Module):
    """Chen et al.: DeepLabV3+ on the dilated Xception."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.aspp = Xception(), Aspp(48)
        self.low, self.fuse = cbr(16, 8, kernel=1), twice(24, 16)
        self.score = nn.Conv2d(16, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        low, last = self.backbone(x)
        y = up(self.aspp(last), low)
        return up(self.score(self.fuse(torch.cat([y, self.low(low)], 1))), x)


class Fcn8(nn.Module):
    """Long et al.: scores of three resolutions are raised and added."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.MaxPool2d(2)
        self.c1, self.c2, self.c3, self.c4 = twice(3, 8), twice(8, 16), twice(16, 24), twice(24, 32)
        self.score4, self.score3 = nn.Conv2d(32, 2, 1), nn.Conv2d(24, 2, 1)
        self.score2 = nn.Conv2d(16, 2, 1)
        self.raise4, self.raise3 = nn.ConvTranspose2d(2, 2, 2, 2), nn.ConvTranspose2d(2, 2, 2, 2)
        self.raise2 = nn.ConvTranspose2d(2, 2, 2, 2)

    def forward(self, x: Tensor) -> Tensor:
        two = self.c2(self.pool(self.c1(x)))
        three = self.c3(self.pool(two))
        y = self.raise4(self.score4(self.c4(self.pool(three)))) + self.score3(three)
        y = self.raise3(y) + self.score2(two)
        return self.raise2(y)


class Autoencoder(nn.Module):
    """Strided convolutions down, transposed ones up, and nothing that crosses over."""

    def __init__(self) -> None:
        super().__init__()
        self.enc = nn.Sequential(cbr(3, 8, 2), cbr(8, 16, 2), cbr(16, 24, 2))
        self.dec = nn.Sequential(
            nn.ConvTranspose2d(24, 16, 2, 2), nn.ReLU(), nn.ConvTranspose2d(16, 8, 2, 2), nn.ReLU(),
            nn.ConvTranspose2d(8, 3, 2, 2), nn.Sigmoid(),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.dec(self.enc(x))


class Vae(nn.Module):
    """Kingma and Welling: mean and variance of a vector, from which the image is made again."""

    def __init__(self) -> None:
        super().__init__()
        self.enc = nn.Sequential(cbr(3, 8, 2), cbr(8, 16, 2), cbr(16, 24, 2), cbr(24, 24, 2))
        self.mean, self.spread = nn.Linear(24 * 64, 10), nn.Linear(24 * 64, 10)
        self.enter = nn.Linear(10, 24 * 64)
        layers: list[nn.Module] = []
        for inside, outside in ((24, 24), (24, 16), (16, 8), (8, 8)):
            layers += [nn.ConvTranspose2d(inside, outside, 4, 2, 1), nn.ReLU()]
        self.dec, self.out = nn.Sequential(*layers), nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, x: Tensor) -> list[Tensor]:
        y = self.enc(x).flatten(1)
        mean, spread = self.mean(y), self.spread(y)
        z = mean + torch.exp(spread / 2) * torch.randn_like(spread)
        return [self.out(self.dec(self.enter(z).view(-1, 24, 8, 8))), mean, spread]


class PlainAroundBlocks(nn.Module):
    """A plain U whose deepest resolution is a row of residual blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.e1, self.e2, self.enter = cbr(3, 8), cbr(8, 16, 2), cbr(16, 24, 2)
        self.bottom = nn.Sequential(Block(24, 24), Block(24, 24))
        self.d2, self.d1 = cbr(40, 16), cbr(24, 8)
        self.out = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        one = self.e1(x)
        two = self.e2(one)
        y = self.bottom(self.enter(two))
        y = self.d2(torch.cat([up(y, two), two], 1))
        return self.out(self.d1(torch.cat([up(y, one), one], 1)))


class ResUNet(nn.Module):
    """A U on a ResNet as segmentation libraries build it, with the stem's value for a skip."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.pool = cbr(3, 8, 2), nn.MaxPool2d(3, 2, 1)
        self.layer1 = nn.Sequential(Block(8, 16), Block(16, 16))
        self.layer2 = nn.Sequential(Block(16, 24, 2), Block(24, 24))
        self.layer3 = nn.Sequential(Block(24, 32, 2), Block(32, 32))
        self.bridge = twice(32, 24)
        self.d2, self.d1, self.d0 = Raised(24, 24, 24), Raised(24, 16, 16), Raised(16, 8, 8)
        self.last, self.score = twice(8, 8), nn.Conv2d(8, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        zero = self.first(x)
        one = self.layer1(self.pool(zero))
        two = self.layer2(one)
        y = self.d2(self.bridge(self.layer3(two)), two)
        y = self.d0(self.d1(y, one), zero)
        return self.score(self.last(F.interpolate(y, scale_factor=2.0)))


class Supervised(nn.Module):
    """Zhou et al.: each node of the finest resolution has a score of its own while it trains."""

    def __init__(self) -> None:
        super().__init__()
        self.x00, self.x10, self.x20 = Double(3, 8), Double(8, 16), Double(16, 24)
        self.x01, self.x11, self.x02 = Double(24, 8), Double(40, 16), Double(32, 8)
        self.score = nn.ModuleList(nn.Conv2d(8, 2, 1) for _ in range(2))

    def forward(self, x: Tensor) -> list[Tensor]:
        x00 = self.x00(x)
        x10 = self.x10(F.max_pool2d(x00, 2))
        x01 = self.x01(torch.cat([x00, up(x10, x00)], 1))
        x20 = self.x20(F.max_pool2d(x10, 2))
        x11 = self.x11(torch.cat([x10, up(x20, x10)], 1))
        x02 = self.x02(torch.cat([x00, x01, up(x11, x00)], 1))
        return [self.score[0](x01), self.score[1](x02)]
