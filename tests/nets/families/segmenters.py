"""Segmenters: decoders of a U, pyramids, two paths."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.nets.families.parts import Block, ResNet, cbr, twice, up

WIDTHS = (8, 16, 24, 32)


class UNet(nn.Module):
    """Ronneberger et al.; upsampled bilinearly or by transposed convolutions."""

    def __init__(self, transposed: bool) -> None:
        super().__init__()
        self.inc, self.pool = twice(3, 8), nn.MaxPool2d(2)
        self.down1, self.down2, self.down3 = twice(8, 16), twice(16, 24), twice(24, 32)
        ups = [nn.ConvTranspose2d(a, b, 2, 2) if transposed else nn.Identity()
               for a, b in ((32, 24), (24, 16), (16, 8))]  # fmt: skip
        self.raise3, self.raise2, self.raise1 = ups
        wide = (48, 32, 16) if transposed else (56, 40, 24)
        self.up3, self.up2, self.up1 = twice(wide[0], 24), twice(wide[1], 16), twice(wide[2], 8)
        self.out = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        one = self.inc(x)
        two = self.down1(self.pool(one))
        three = self.down2(self.pool(two))
        y = self.down3(self.pool(three))
        y = self.up3(torch.cat([three, up(self.raise3(y), three)], 1))
        y = self.up2(torch.cat([two, up(self.raise2(y), two)], 1))
        y = self.up1(torch.cat([one, up(self.raise1(y), one)], 1))
        return self.out(y)


class TransposedUNet(UNet):
    """The same without any interpolation."""

    def __init__(self) -> None:
        super().__init__(transposed=True)

    def forward(self, x: Tensor) -> Tensor:
        one = self.inc(x)
        two = self.down1(self.pool(one))
        three = self.down2(self.pool(two))
        y = self.down3(self.pool(three))
        y = self.up3(torch.cat([three, self.raise3(y)], 1))
        y = self.up2(torch.cat([two, self.raise2(y)], 1))
        y = self.up1(torch.cat([one, self.raise1(y)], 1))
        return self.out(y)


class UNetPlusPlus(nn.Module):
    """Zhou et al.: nodes between encoder and decoder, dense at each resolution."""

    def __init__(self) -> None:
        super().__init__()
        self.x00, self.x10, self.x20 = twice(3, 8), twice(8, 16), twice(16, 24)
        self.x01, self.x11 = twice(24, 8), twice(40, 16)
        self.x02, self.out = twice(32, 8), nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x00 = self.x00(x)
        x10 = self.x10(F.max_pool2d(x00, 2))
        x20 = self.x20(F.max_pool2d(x10, 2))
        x01 = self.x01(torch.cat([x00, up(x10, x00)], 1))
        x11 = self.x11(torch.cat([x10, up(x20, x10)], 1))
        return self.out(self.x02(torch.cat([x00, x01, up(x11, x00)], 1)))


class Rsu(nn.Module):
    """U2-Net's block: a U inside a residual."""

    def __init__(self, inside: int, width: int, depth: int) -> None:
        super().__init__()
        self.enter = cbr(inside, width)
        self.down = nn.ModuleList(cbr(width, width) for _ in range(depth))
        self.bottom = cbr(width, width, spread=2)
        self.up = nn.ModuleList(cbr(2 * width, width) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        entered = y = self.enter(x)
        kept = []
        for i, layer in enumerate(self.down):
            y = layer(F.max_pool2d(y, 2) if i else y)
            kept.append(y)
        y = self.bottom(y)
        for layer, other in zip(self.up, reversed(kept), strict=True):
            y = layer(torch.cat([up(y, other), other], 1))
        return y + entered


class U2Net(nn.Module):
    """Qin et al.: a U whose blocks are Us, and a score at each resolution."""

    def __init__(self, sides: bool = True) -> None:
        super().__init__()
        self.stage1, self.stage2 = Rsu(3, 8, 4), Rsu(8, 8, 3)
        self.stage3, self.stage4 = Rsu(8, 8, 2), Rsu(8, 8, 1)
        self.stage3d, self.stage2d, self.stage1d = Rsu(16, 8, 2), Rsu(16, 8, 3), Rsu(16, 8, 4)
        self.side = nn.ModuleList(nn.Conv2d(8, 1, 3, padding=1) for _ in range(4))
        self.out, self.sides = nn.Conv2d(4 if sides else 8, 1, 1), sides

    def forward(self, x: Tensor) -> Tensor:
        one = self.stage1(x)
        two = self.stage2(F.max_pool2d(one, 2))
        three = self.stage3(F.max_pool2d(two, 2))
        four = self.stage4(F.max_pool2d(three, 2))
        y3 = self.stage3d(torch.cat([up(four, three), three], 1))
        y2 = self.stage2d(torch.cat([up(y3, two), two], 1))
        y1 = self.stage1d(torch.cat([up(y2, one), one], 1))
        if not self.sides:
            return self.out(y1)
        scores = [up(side(y), x) for side, y in zip(self.side, (y1, y2, y3, four), strict=True)]
        return torch.sigmoid(self.out(torch.cat(scores, 1)))


class Nested(nn.Module):
    """MONAI's UNet: each level holds the one below it, and lays it beside its own input."""

    def __init__(self, submodule: nn.Module) -> None:
        super().__init__()
        self.submodule = submodule

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.submodule(x)], 1)


def monai_unet() -> nn.Module:
    def level(inside: int, width: int, given: int, below: nn.Module, made: int) -> nn.Module:
        raised = nn.ConvTranspose2d(width + made, given, 3, 2, 1, 1)
        norm = nn.Sequential(raised, nn.BatchNorm2d(given), nn.ReLU())
        return nn.Sequential(Block(inside, width, 2), Nested(below), norm)

    bottom = Block(16, 24)
    inner = level(8, 16, 8, bottom, 24)
    top = level(3, 8, 8, inner, 8)
    return nn.Sequential(*top, nn.Conv2d(8, 2, 1))


class Unetr(nn.Module):
    """Hatamizadeh et al.: tokens of several depths are brought to maps of several resolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.norm = nn.Conv2d(3, 16, 8, 8), nn.LayerNorm(16)
        layer = {"d_model": 16, "nhead": 2, "dim_feedforward": 32, "batch_first": True}
        self.blocks = nn.ModuleList(nn.TransformerEncoderLayer(**layer) for _ in range(4))
        self.enc1 = twice(3, 8)
        self.enc2 = nn.Sequential(nn.ConvTranspose2d(16, 8, 2, 2), nn.ConvTranspose2d(8, 8, 2, 2))
        self.enc3 = nn.ConvTranspose2d(16, 8, 2, 2)
        self.raise3, self.dec3 = nn.ConvTranspose2d(16, 8, 2, 2), twice(16, 8)
        self.raise2, self.dec2 = nn.ConvTranspose2d(8, 8, 2, 2), twice(16, 8)
        self.raise1, self.dec1 = nn.ConvTranspose2d(8, 8, 2, 2), twice(16, 8)
        self.out = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.patch(x)
        batch, width, height, across = y.shape

        def as_map(tokens: Tensor) -> Tensor:
            return tokens.transpose(1, 2).reshape(batch, width, height, across)

        y, kept = y.flatten(2).transpose(1, 2), []
        for block in self.blocks:
            y = block(y)
            kept.append(y)
        y = as_map(self.norm(y))
        y = self.dec3(torch.cat([self.raise3(y), self.enc3(as_map(kept[2]))], 1))
        y = self.dec2(torch.cat([self.raise2(y), self.enc2(as_map(kept[1]))], 1))
        y = self.dec1(torch.cat([self.raise1(y), self.enc1(x)], 1))
        return self.out(y)


class Aspp(nn.Module):
    """Chen et al.: parallel dilations and a pooled branch."""

    def __init__(self, inside: int, pooled: bool = True) -> None:
        super().__init__()
        self.one = cbr(inside, 16, kernel=1)
        self.wide = nn.ModuleList(cbr(inside, 16, spread=s) for s in (2, 3, 4))
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), cbr(inside, 16, kernel=1))
        self.project = cbr(80, 16, kernel=1)

    def forward(self, x: Tensor) -> Tensor:
        made = [self.one(x), *(layer(x) for layer in self.wide), up(self.pool(x), x)]
        return self.project(torch.cat(made, 1))


class DeepLab(nn.Module):
    """DeepLabV3, and V3+ with a decoder; at output stride 8."""

    def __init__(self, plus: bool) -> None:
        super().__init__()
        self.backbone = ResNet(1, 2, 1, 1, spread=(1, 1, 2, 4))
        self.aspp, self.plus = Aspp(40), plus
        self.low, self.fuse = cbr(16, 8, kernel=1), twice(24, 16)
        self.head, self.score = cbr(16, 16), nn.Conv2d(16, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        low, _, _, last = self.backbone(x)
        y = self.aspp(last)
        y = self.fuse(torch.cat([up(y, low), self.low(low)], 1)) if self.plus else self.head(y)
        return up(self.score(y), x)


class Pyramid(nn.Module):
    """PSPNet: the last map beside itself pooled to several sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = ResNet(1, 2, 1, 1, spread=(1, 1, 2, 4))
        self.bins = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(size), nn.Conv2d(40, 8, 1), nn.ReLU())
            for size in (1, 2, 4)
        )
        self.fuse, self.score = cbr(64, 16), nn.Conv2d(16, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        last = self.backbone(x)[-1]
        y = torch.cat([last, *(up(one(last), last) for one in self.bins)], 1)
        return up(self.score(self.fuse(y)), x)


class SegFormer(nn.Module):
    """Xie et al.: a linear layer for each of four maps, all brought to the first's size."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = ResNet()
        self.linear = nn.ModuleList(nn.Linear(width, 48) for width in (16, 24, 32, 40))
        self.fuse, self.score = cbr(192, 48, kernel=1), nn.Conv2d(48, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        maps, made = self.encoder(x), []
        for linear, one in zip(self.linear, maps, strict=True):
            tokens = linear(one.flatten(2).transpose(1, 2)).transpose(1, 2)
            made.append(up(tokens.reshape(len(x), 48, *one.shape[2:]), maps[0]))
        return up(self.score(self.fuse(torch.cat(made, 1))), x)


class Refine(nn.Module):
    """BiSeNet's attention refinement: a convolution and a gate."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        self.conv, self.gate = cbr(inside, outside), nn.Conv2d(outside, outside, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return x * torch.sigmoid(self.gate(F.adaptive_avg_pool2d(x, 1)))


class BiSeNet(nn.Module):
    """Yu et al.: a shallow path that keeps the resolution beside a deep one."""

    def __init__(self) -> None:
        super().__init__()
        self.deep = ResNet()
        self.path = nn.Sequential(cbr(3, 8, 2), cbr(8, 8, 2), cbr(8, 16, 2))
        self.arm4, self.arm3 = Refine(40, 16), Refine(32, 16)
        self.pooled, self.head4, self.head3 = cbr(40, 16, kernel=1), cbr(16, 16), cbr(16, 16)
        self.fuse, self.score = cbr(32, 16), nn.Conv2d(16, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        _, _, three, four = self.deep(x)
        pooled = self.pooled(F.adaptive_avg_pool2d(four, 1))
        y = self.arm4(four) + F.interpolate(pooled, size=four.shape[2:])
        y = self.head4(up(y, three)) + self.arm3(three)
        beside = self.path(x)
        y = self.fuse(torch.cat([self.head3(up(y, beside)), beside], 1))
        return up(self.score(y), x)


class HighResolution(nn.Module):
    """HRNet: branches of several resolutions that give to each other, all of which are used."""

    def __init__(self, classifies: bool) -> None:
        super().__init__()
        self.stem = nn.Sequential(cbr(3, 8, 2), cbr(8, 8, 2))
        self.layer1, self.t2 = Block(8, 8), cbr(8, 16, 2)
        self.stage2 = Exchange(8, 16)
        self.t3 = cbr(16, 24, 2)
        self.stage3 = Exchange(8, 16, 24)
        self.again = Exchange(8, 16, 24)
        self.score, self.fc = nn.Conv2d(48, 2, 1), nn.Linear(24, 5)
        self.down = nn.ModuleList([cbr(8, 16, 2), cbr(16, 24, 2)])
        self.classifies = classifies

    def forward(self, x: Tensor) -> Tensor:
        one = self.layer1(self.stem(x))
        one, two = self.stage2([one, self.t2(one)])
        one, two, three = self.again(self.stage3([one, two, self.t3(two)]))
        if self.classifies:
            for down, other in zip(self.down, (two, three), strict=True):
                one = down(one) + other
            return self.fc(one.mean((2, 3)))
        return self.score(torch.cat([one, up(two, one), up(three, one)], 1))


class Exchange(nn.Module):
    """One module of HRNet: a block for each branch, then each is given what the others have."""

    def __init__(self, *widths: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(Block(width, width) for width in widths)
        self.fuse = nn.ModuleDict()
        for i, to in enumerate(widths):
            for j, given in enumerate(widths):
                if j > i:
                    self.fuse[f"{i}{j}"] = cbr(given, to, kernel=1)
                for step in range(i - j):
                    last = step == i - j - 1
                    self.fuse[f"{i}{j}{step}"] = cbr(given, to if last else given, 2)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        maps = [branch(one) for branch, one in zip(self.branches, maps, strict=True)]
        made = []
        for i, own in enumerate(maps):
            total = own
            for j, given in enumerate(maps):
                if j > i:
                    total = total + up(self.fuse[f"{i}{j}"](given), own)
                for step in range(i - j):
                    given = self.fuse[f"{i}{j}{step}"](given)
                if j < i:
                    total = total + given
            made.append(F.relu(total))
        return made
