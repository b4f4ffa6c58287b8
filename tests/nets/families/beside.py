"""Stages that keep their resolution, streams beside each other, ends that are looked at."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.nets.families.parts import Block, Classifier, cbr, twice, up


def _layer(inside: int, outside: int, stride: int = 1) -> nn.Module:
    return nn.Sequential(Block(inside, outside, stride), Block(outside, outside))


def last_stride_of_one() -> nn.Module:
    """Luo et al., re-identification: the last stage of a ResNet without its stride."""
    stem = nn.Sequential(cbr(3, 8, 2), nn.MaxPool2d(3, 2, 1))
    layers = {"layer1": _layer(8, 8), "layer2": _layer(8, 16, 2), "layer3": _layer(16, 32, 2)}
    return Classifier(64, stem=stem, **layers, layer4=_layer(32, 64))


def widened_by_half() -> nn.Module:
    """The same with a last list that widens as an EfficientNet's do: no stage of its own."""
    stem = nn.Sequential(cbr(3, 8, 2), nn.MaxPool2d(3, 2, 1))
    layers = {"layer1": _layer(8, 8), "layer2": _layer(8, 16, 2), "layer3": _layer(16, 32, 2)}
    return Classifier(48, stem=stem, **layers, layer4=_layer(32, 48))


class Inverted(nn.Module):
    """An inverted residual; one that changes the shape has no shortcut."""

    def __init__(self, inside: int, outside: int, stride: int = 1) -> None:
        super().__init__()
        self.adds = stride == 1 and inside == outside
        conv = nn.Conv2d(2 * inside, outside, 1, bias=False)
        self.body = nn.Sequential(
            cbr(inside, 2 * inside, kernel=1), cbr(2 * inside, 2 * inside, stride), conv
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.adds else self.body(x)


def doubled_without_shortcut() -> nn.Module:
    """MobileNet's lists: the one that doubles the channels at its resolution projects nothing."""

    def stage(inside: int, outside: int, stride: int = 1) -> nn.Module:
        return nn.Sequential(Inverted(inside, outside, stride), Inverted(outside, outside))

    blocks = nn.Sequential(stage(8, 12, 2), stage(12, 16, 2), stage(16, 32))
    return Classifier(32, stem=cbr(3, 8, 2), blocks=blocks)


class NearAndFar(nn.Module):
    """A plain convolution beside a dilated one."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.near, self.far = cbr(width, width), cbr(width, width, spread=4)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((self.near(x), self.far(x)), 1)


class DilatedInside(nn.Module):
    """CGNet's context block, which steps down itself."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        self.down, self.around = cbr(inside, outside, 2), NearAndFar(outside)
        self.join = cbr(2 * outside, 2 * outside, kernel=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.join(self.around(self.down(x)))


def dilated_inside() -> nn.Module:
    return Classifier(32, stem=cbr(3, 8, 2), one=DilatedInside(8, 8), two=DilatedInside(16, 16))


def pooled_before_a_stride() -> nn.Module:
    """Zeiler and Fergus: a pooling, and a strided convolution straight behind it."""
    layers = [cbr(3, 8, 2), nn.MaxPool2d(2), cbr(8, 16, 2), nn.MaxPool2d(2), *twice(16, 24)]
    return Classifier(24, features=nn.Sequential(*layers))


class Unit(nn.Module):
    """A layer of a list; a class of its own, as libraries have it."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        self.conv, self.act = nn.Conv2d(inside, outside, 3, padding=1), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.conv(x))


def vgg_of_uneven_stages() -> nn.Module:
    """VGG-11 with a container a stage: the first two hold one layer, the others two."""

    def stage(inside: int, outside: int, units: int) -> nn.Module:
        layers = [Unit(inside if not i else outside, outside) for i in range(units)]
        return nn.Sequential(*layers, nn.MaxPool2d(2))

    stages = [stage(3, 8, 1), stage(8, 12, 1), stage(12, 16, 2), stage(16, 24, 2), stage(24, 24, 2)]
    return Classifier(24, features=nn.Sequential(*stages))


def stem_with_a_block() -> nn.Module:
    """EfficientViT: the stem is a convolution and a block, and the first stage steps down."""
    stem = nn.Sequential(cbr(3, 8, 2), Inverted(8, 8))
    widths = ((8, 16), (16, 24), (24, 32))
    stages = [nn.Sequential(Inverted(i, o, 2), Inverted(o, o)) for i, o in widths]
    return Classifier(32, stem=stem, stages=nn.Sequential(*stages))


# Streams.


class OctaveConv(nn.Module):
    """Chen et al.: a high and a low resolution that give to each other."""

    def __init__(self, inside: int, outside: int, kernel: int, stride: int, low: bool) -> None:
        super().__init__()
        self.stride, args = stride, (inside, outside, kernel, 1, kernel // 2)
        self.hh, self.hl = nn.Conv2d(*args, bias=False), nn.Conv2d(*args, bias=False)
        self.lh = nn.Conv2d(*args, bias=False) if low else None
        self.ll = nn.Conv2d(*args, bias=False) if low else None
        self.high, self.low = nn.BatchNorm2d(outside), nn.BatchNorm2d(outside)

    def forward(self, high: Tensor, low: Tensor | None) -> tuple[Tensor, Tensor]:
        if self.stride > 1:
            high = F.avg_pool2d(high, 2)
        h, y = self.hh(high), self.hl(F.avg_pool2d(high, 2))
        if low is not None and self.lh is not None and self.ll is not None:
            beside = self.lh(low)
            h = h + (beside if self.stride > 1 else F.interpolate(beside, scale_factor=2))
            y = y + self.ll(F.avg_pool2d(low, 2) if self.stride > 1 else low)
        return self.high(h), self.low(y)


class OctaveBlock(nn.Module):
    """A residual block of two streams; its shortcut projects both."""

    def __init__(self, inside: int, outside: int, stride: int, low: bool) -> None:
        super().__init__()
        self.one = OctaveConv(inside, outside, 3, stride, low)
        self.two = OctaveConv(outside, outside, 3, 1, True)
        self.short = OctaveConv(inside, outside, 1, stride, low)

    def forward(self, high: Tensor, low: Tensor | None) -> tuple[Tensor, Tensor]:
        h, y = self.one(high, low)
        h, y = self.two(F.relu(h), F.relu(y))
        beside, below = self.short(high, low)
        return F.relu(h + beside), F.relu(y + below)


class OctaveOfOneBlock(nn.Module):
    """Oct-ResNet-10: one block a stage."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(cbr(3, 8, 2), nn.MaxPool2d(3, 2, 1))
        self.layer1, self.layer2 = OctaveBlock(8, 8, 1, False), OctaveBlock(8, 16, 2, True)
        self.layer3, self.fc = OctaveBlock(16, 24, 2, True), nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        high, low = self.layer1(self.stem(x), None)
        high, _ = self.layer3(*self.layer2(high, low))
        return self.fc(high.mean((2, 3)))


class TwoStreams(nn.Module):
    """Targ et al., ResNet in ResNet: a residual and a transient stream; all branches are linear."""

    def __init__(self, inside: int, outside: int, stride: int = 1) -> None:
        super().__init__()
        args = (inside, outside, 3, stride, 1)
        self.keep, self.give = nn.Conv2d(*args), nn.Conv2d(*args)
        self.back, self.own = nn.Conv2d(*args), nn.Conv2d(*args)
        self.norm1, self.norm2 = nn.BatchNorm2d(outside), nn.BatchNorm2d(outside)
        same = stride == 1 and inside == outside
        self.short = nn.Identity() if same else nn.Conv2d(inside, outside, 1, stride)

    def forward(self, pair: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        res, trans = pair
        one = self.keep(res) + self.short(res) + self.back(trans)
        two = self.own(trans) + self.give(res)
        return F.relu(self.norm1(one)), F.relu(self.norm2(two))


class ResNetInResNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.res, self.trans = cbr(3, 8), cbr(3, 8)
        self.units = nn.Sequential(TwoStreams(8, 8), TwoStreams(8, 16, 2), TwoStreams(16, 16))
        self.fc = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        pair = self.units((self.res(x), self.trans(x)))
        return self.fc(torch.cat(pair, 1).mean((2, 3)))


class Merge(nn.Module):
    """PANet's step up in strides: a value is added to what a convolution makes of another."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv, self.out = cbr(width, width), cbr(width, width)

    def forward(self, pair: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        one, two = pair
        return self.out(one + self.conv(two)), two


class MergedStreams(nn.Module):
    """Two streams of which each is added to the other: a merge, and no residual block."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = cbr(3, 8, 2), cbr(3, 8, 2)
        self.merges, self.fc = nn.Sequential(Merge(8), Merge(8)), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        pair = self.merges((self.one(x), self.two(x)))
        return self.fc(torch.cat(pair, 1).mean((2, 3)))


class DualPath(nn.Module):
    """Chen et al., as two streams from unit to unit: what is added, and what is laid beside."""

    def __init__(self, adds: int, lays: int, stride: int = 0) -> None:
        super().__init__()
        width = adds + lays
        self.short = cbr(width, 16 + 8, max(stride, 1), kernel=1) if stride else None
        self.body = nn.Sequential(
            cbr(width, 16, kernel=1),
            cbr(16, 16, max(stride, 1)),
            nn.Conv2d(16, 16 + 8, 1),
            nn.BatchNorm2d(16 + 8),
        )

    def forward(self, pair: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        x = torch.cat(pair, 1)
        one, two = pair if self.short is None else self.short(x).split((16, 8), 1)
        added, laid = self.body(x).split((16, 8), 1)
        return one + added, torch.cat((two, laid), 1)


class DualPathNet(nn.Module):
    """The streams of a stage meet inside the first unit of the next."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(cbr(3, 16, 2), nn.MaxPool2d(2))
        self.stage1 = nn.Sequential(DualPath(8, 8, 1), DualPath(16, 16))
        self.stage2 = nn.Sequential(DualPath(16, 24, 2), DualPath(16, 16))
        self.last, self.fc = cbr(40, 40, kernel=1), nn.Linear(40, 5)

    def forward(self, x: Tensor) -> Tensor:
        one, two = self.stem(x).chunk(2, 1)
        pair = self.stage2(self.stage1((one, two)))
        return self.fc(self.last(torch.cat(pair, 1)).mean((2, 3)))


class Attending(nn.Module):
    """A transformer block without its attention: what it is about stands around it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.one, self.two = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.two(F.gelu(self.one(self.norm(x))))


class Grid(nn.Module):
    """Patches of one size with a class token, and blocks on them."""

    def __init__(self, width: int, other: int, patch: int, depth: int) -> None:
        super().__init__()
        self.patch, self.cls = nn.Conv2d(3, width, patch, patch), nn.Parameter(torch.zeros(width))
        self.early = Attending(width)
        self.ask = nn.MultiheadAttention(width, 2, kdim=other, vdim=other, batch_first=True)
        self.late = nn.Sequential(*(Attending(width) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 5)

    def rows(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        return self.early(torch.cat((self.cls.expand(x.shape[0], 1, -1), x), 1))

    def crossed(self, x: Tensor, other: Tensor) -> Tensor:
        cls = x[:, :1] + self.ask(x[:, :1], other, other)[0]
        return torch.cat((cls, x[:, 1:]), 1)

    def scores(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.late(x))[:, 0])


class TwoGrids(nn.Module):
    """CrossViT: patches of two sizes, and class tokens that ask the other's patches."""

    def __init__(self, crosses: bool) -> None:
        super().__init__()
        self.crosses, self.fine, self.coarse = crosses, Grid(16, 24, 8, 1), Grid(24, 16, 16, 3)

    def forward(self, x: Tensor) -> Tensor:
        one, two = self.fine.rows(x), self.coarse.rows(x)
        if self.crosses:
            one, two = self.fine.crossed(one, two), self.coarse.crossed(two, one)
        return torch.stack((self.fine.scores(one), self.coarse.scores(two))).mean(0)


# Ends.


class Exit(nn.Module):
    """MSDNet's classifier: it goes down itself before it pools."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.down, self.fc = (
            nn.Sequential(cbr(width, width, 2), cbr(width, width, 2)),
            nn.Linear(width, 5),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.down(x).mean((2, 3)))


class Exits(nn.Module):
    """An exit behind every stage."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, widths = cbr(3, 8, 2), ((8, 8, 1), (8, 16, 2), (16, 24, 2))
        self.stages = nn.ModuleList(_layer(*args) for args in widths)
        self.exits = nn.ModuleList(Exit(w) for _, w, _ in widths)

    def forward(self, x: Tensor) -> list[Tensor]:
        x, found = self.stem(x), []
        for stage, end in zip(self.stages, self.exits, strict=True):
            x = stage(x)
            found.append(end(x))
        return found


class Covariance(nn.Module):
    """Li et al.: positions as a list, whose covariance is what is classified."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.one, self.two = cbr(3, 8, 2), _layer(8, 8), _layer(8, 16, 2)
        self.fc = nn.Linear(256, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.two(self.one(self.stem(x)))
        x = x.reshape(x.shape[0], x.shape[1], -1)
        return self.fc(x.bmm(x.transpose(1, 2)).flatten(1))


class Backbone(nn.Module):
    """Gives its deepest map first, and the one before it for an auxiliary head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = cbr(3, 8, 2)
        self.c2, self.c3, self.c4 = _layer(8, 16, 2), _layer(16, 24, 2), _layer(24, 48)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.c3(self.c2(self.stem(x)))
        return self.c4(y), y


class Auxiliary(nn.Module):
    """DeepLabV3 and its like: an auxiliary head on the stage before the last."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = Backbone()
        self.main = nn.Sequential(cbr(48, 16), nn.Conv2d(16, 5, 1))
        self.aux = nn.Sequential(cbr(24, 8), nn.Conv2d(8, 5, 1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        deep, middle = self.backbone(x)
        return up(self.main(deep), x), up(self.aux(middle), x)


class Keypoints(nn.Module):
    """Xiao et al.: deconvolutions, a heatmap for each joint, and where each is highest."""

    def __init__(self, decodes: bool) -> None:
        super().__init__()
        self.decodes, self.stem = decodes, cbr(3, 8, 2)
        self.one, self.two, self.three = _layer(8, 8, 2), _layer(8, 16, 2), _layer(16, 24, 2)
        self.up1, self.up2 = (
            nn.Sequential(nn.ConvTranspose2d(i, 16, 4, 2, 1), nn.BatchNorm2d(16), nn.ReLU())
            for i in (24, 16)
        )
        self.heatmap = nn.Conv2d(16, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.three(self.two(self.one(self.stem(x))))
        x = self.heatmap(self.up2(self.up1(x)))
        if not self.decodes:
            return x
        best, at = x.flatten(2).max(2)
        return torch.stack((at % x.shape[3], at // x.shape[3], best), 2)


class Depth(nn.Module):
    """Depth estimation: one map in a range of its own, with no axis of channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.one, self.two = cbr(3, 8, 2), _layer(8, 16, 2), _layer(16, 24, 2)
        self.up1, self.up2, self.head = cbr(24, 16), cbr(16, 8), nn.Conv2d(8, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.two(self.one(self.stem(x)))
        for conv in (self.up1, self.up2):
            x = conv(F.interpolate(x, scale_factor=2))
        return (torch.sigmoid(self.head(x)) * 10 + 0.1).squeeze(1)


class Unfolded(nn.Module):
    """MobileViTV2: patches are unfolded, worked on, and folded again."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.local, self.mix = cbr(width, width), nn.Conv2d(width, width, 1)
        self.join = nn.Sequential(nn.Conv2d(width, width, 1), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        x = self.local(x)
        n, c, h, w = x.shape
        y = F.unfold(x, 2, stride=2).reshape(n, c, 4, -1)
        y = (y + torch.relu(self.mix(y))).reshape(n, 4 * c, -1)
        return self.join(F.fold(y, (h, w), 2, stride=2))


def unfolded() -> nn.Module:
    one = nn.Sequential(cbr(8, 16, 2), Unfolded(16))
    two = nn.Sequential(cbr(16, 24, 2), Unfolded(24))
    return Classifier(24, stem=cbr(3, 8, 2), one=one, two=two)


class Padded(nn.Module):
    """Padding as TensorFlow does it, beyond what a small map is: an EfficientNet's five by five."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(inside, outside, 5, 2), nn.BatchNorm2d(outside)
        self.block = Block(outside, outside)

    def forward(self, x: Tensor) -> Tensor:
        return self.block(F.relu(self.norm(self.conv(F.pad(x, (1, 2, 1, 2))))))


def padded() -> nn.Module:
    steps = {"one": Padded(8, 16), "two": Padded(16, 24), "three": Padded(24, 40)}
    return Classifier(40, stem=cbr(3, 8, 2), **steps)


class Plain(nn.Module):
    """TextNet's stage: a list of layers, one of which is strided."""

    def __init__(self, inside: int, outside: int, *strides: int) -> None:
        super().__init__()
        widths = [inside, *[outside] * len(strides)]
        self.stage = nn.ModuleList(
            cbr(widths[i], outside, stride) for i, stride in enumerate(strides)
        )

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.stage:
            x = layer(x)
        return x


def steps_behind_a_layer() -> nn.Module:
    stages = nn.Sequential(Plain(8, 8, 1, 2, 1), Plain(8, 16, 2, 1), Plain(16, 24, 2, 1))
    return Classifier(24, stem=cbr(3, 8, 2), stages=stages)
