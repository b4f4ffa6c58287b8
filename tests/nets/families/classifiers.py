"""Classifiers: stages that end in many ways, cells, octaves, class maps."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.nets.families.parts import Block, Classifier, ResNet, cbr, twice, up


def vgg() -> nn.Module:
    """Simonyan and Zisserman: two convolutions and a pooling a stage, in one list."""
    layers = [*twice(3, 8), nn.MaxPool2d(2), *twice(8, 16), nn.MaxPool2d(2), *twice(16, 32)]
    return Classifier(32, features=nn.Sequential(*layers))


def vgg_of_stages() -> nn.Module:
    """The same with a container a stage, which ends with the pooling."""
    return Classifier(
        32,
        stage1=nn.Sequential(twice(3, 8), nn.MaxPool2d(2)),
        stage2=nn.Sequential(twice(8, 16), nn.MaxPool2d(2)),
        stage3=twice(16, 32),
    )


def pooled_residual() -> nn.Module:
    """Residual stages that end with a pooling."""
    return Classifier(
        8,
        stem=cbr(3, 8),
        s1=nn.Sequential(Block(8, 8), Block(8, 8), nn.MaxPool2d(2)),
        s2=nn.Sequential(Block(8, 8), Block(8, 8), nn.MaxPool2d(2)),
        s3=nn.Sequential(Block(8, 8), Block(8, 8)),
    )


class Layer(nn.Module):
    """Swin's layer: blocks, then its own downsampling."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(Block(inside, inside), Block(inside, inside))
        self.down = nn.Conv2d(inside, outside, 2, 2) if outside else None

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(x)
        return x if self.down is None else self.down(x)


def swin_layers() -> nn.Module:
    layers = nn.Sequential(Layer(8, 16), Layer(16, 24), Layer(24, 0))
    return Classifier(24, stem=nn.Conv2d(3, 8, 4, 4), layers=layers)


def osnet() -> nn.Module:
    """Zhou et al.: blocks, then a pointwise convolution and a pooling, as one transition."""

    def stage(inside: int, outside: int, last: bool = False) -> nn.Module:
        layers: list[nn.Module] = [Block(inside, outside), Block(outside, outside)]
        if not last:
            layers.append(nn.Sequential(cbr(outside, outside, kernel=1), nn.AvgPool2d(2, 2)))
        return nn.Sequential(*layers)

    return Classifier(
        24, conv1=cbr(3, 8, 2), conv2=stage(8, 16), conv3=stage(16, 24), conv4=stage(24, 24, True)
    )


class Dense(nn.Module):
    """HarDNet's, DenseNet's block: what it makes is laid beside what it is given."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.one, self.two = cbr(width, 8), cbr(width + 8, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([x, self.one(x)], 1)
        return torch.cat([x, self.two(x)], 1)


def hardnet() -> nn.Module:
    """Chao et al.: one list of blocks, pointwise convolutions and poolings."""
    layers = [cbr(3, 8, 2), cbr(8, 8), Dense(8), cbr(24, 16, kernel=1), nn.MaxPool2d(2)]
    layers += [Dense(16), cbr(32, 24, kernel=1), nn.MaxPool2d(2), Dense(24)]
    return Classifier(40, base=nn.Sequential(*layers))


def densenet() -> nn.Module:
    """Huang et al.: a transition of norm, pointwise convolution and pooling between blocks."""

    def transition(inside: int, outside: int) -> nn.Module:
        return nn.Sequential(
            nn.BatchNorm2d(inside), nn.ReLU(), nn.Conv2d(inside, outside, 1), nn.AvgPool2d(2)
        )

    return Classifier(
        32, conv0=cbr(3, 8, 2), block1=Dense(8), trans1=transition(24, 16), block2=Dense(16)
    )


class Nin(nn.Module):
    """Lin et al.: the last pointwise convolution makes one map a class, which is pooled."""

    def __init__(self) -> None:
        super().__init__()

        def mlp(inside: int, outside: int, kernel: int = 3) -> list[nn.Module]:
            conv = nn.Conv2d(inside, outside, kernel, padding=kernel // 2)
            return [conv, nn.ReLU(), nn.Conv2d(outside, outside, 1), nn.ReLU()]

        last = [nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 5, 1), nn.ReLU()]
        pool = nn.MaxPool2d(3, 2, 1)
        self.features = nn.Sequential(*mlp(3, 8, 5), pool, *mlp(8, 16, 5), pool, *last)

    def forward(self, x: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(self.features(x), 1).flatten(1)


class Fire(nn.Module):
    def __init__(self, inside: int, squeezed: int, width: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(inside, squeezed, 1)
        self.one, self.three = nn.Conv2d(squeezed, width, 1), nn.Conv2d(squeezed, width, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.squeeze(x))
        return torch.cat([F.relu(self.one(x)), F.relu(self.three(x))], 1)


class SqueezeNet(nn.Module):
    """Iandola et al.: fire modules, and a class map."""

    def __init__(self) -> None:
        super().__init__()
        stem = [nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.MaxPool2d(3, 2)]
        self.features = nn.Sequential(
            *stem, Fire(8, 4, 8), Fire(16, 4, 8), nn.MaxPool2d(3, 2), Fire(16, 4, 12)
        )
        self.classifier = nn.Sequential(nn.Dropout(), nn.Conv2d(24, 5, 1), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x)).mean((2, 3))


class Cam(nn.Module):
    """Class activation maps: scores for each position, then pooled."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(cbr(3, 8), Block(8, 8), Block(8, 16, 2), Block(16, 16))
        self.score = nn.Conv2d(16, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.score(self.body(x)).mean((2, 3))


class Cell(nn.Module):
    """A cell of NASNet or DARTS: it is given the outputs of the two cells before it."""

    def __init__(self, older: int, newer: int, width: int, stride: int, behind: bool) -> None:
        super().__init__()
        self.pre0, self.pre1 = cbr(older, width, 1 + behind, 1), cbr(newer, width, 1, 1)
        self.a, self.b = cbr(width, width, stride), cbr(width, width, stride)
        self.c, self.d = cbr(width, width), cbr(width, width, stride)

    def forward(self, older: Tensor, newer: Tensor) -> Tensor:
        older, newer = self.pre0(older), self.pre1(newer)
        one = self.a(older) + self.b(newer)
        two = self.c(one) + self.d(older)
        return torch.cat([one, two], 1)


class Cells(nn.Module):
    """Liu et al.: normal cells, with a reduction cell between every three."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8))
        self.cells = nn.ModuleList()
        older = newer = 8
        behind = False
        for i in range(8):
            reduces = i in (3, 6)
            self.cells.append(Cell(older, newer, 8, 1 + reduces, behind))
            older, newer, behind = newer, 16, reduces
        self.fc = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        older = newer = self.stem(x)
        for cell in self.cells:
            older, newer = newer, cell(older, newer)
        return self.fc(newer.mean((2, 3)))


class Octave(nn.Module):
    """Chen et al.: a high and a low resolution that give to each other in every convolution."""

    def __init__(self, high: tuple[int, int], low: tuple[int, int], stride: int = 1) -> None:
        super().__init__()
        self.stride, self.low = stride, low
        self.hh = nn.Conv2d(high[0], high[1], 3, padding=1)
        self.hl = nn.Conv2d(high[0], low[1], 3, padding=1) if low[1] else None
        self.lh = nn.Conv2d(low[0], high[1], 3, padding=1) if low[0] else None
        self.ll = nn.Conv2d(low[0], low[1], 3, padding=1) if low[0] and low[1] else None
        self.norm = nn.BatchNorm2d(high[1])
        self.norm_low = nn.BatchNorm2d(low[1]) if low[1] else None

    def forward(self, high: Tensor, low: Tensor | None) -> tuple[Tensor, Tensor | None]:
        if self.stride > 1:
            high = F.avg_pool2d(high, 2)
        up = self.hh(high)
        if self.lh is not None:
            made = self.lh(low)
            up = up + (made if self.stride > 1 else F.interpolate(made, scale_factor=2.0))
        high_out = F.relu(self.norm(up))
        if self.hl is None:
            return high_out, None
        down = self.hl(F.avg_pool2d(high, 2))
        if self.ll is not None:
            down = down + self.ll(F.avg_pool2d(low, 2) if self.stride > 1 else low)
        assert self.norm_low is not None
        return high_out, F.relu(self.norm_low(down))


class OctNet(nn.Module):
    """Three stages of octave convolutions; the last one gives the high resolution alone."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = cbr(3, 8, 2)
        self.layer1 = nn.ModuleList([Octave((8, 8), (0, 4)), Octave((8, 8), (4, 4)),
                                     Octave((8, 8), (4, 4))])  # fmt: skip
        self.layer2 = nn.ModuleList([Octave((8, 12), (4, 6), 2), Octave((12, 12), (6, 6)),
                                     Octave((12, 12), (6, 6))])  # fmt: skip
        self.layer3 = nn.ModuleList([Octave((12, 16), (6, 0), 2), Octave((16, 16), (0, 0))])
        self.fc = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        high, low = self.stem(x), None
        for layer in (self.layer1, self.layer2, self.layer3):
            for octave in layer:
                high, low = octave(high, low)
        return self.fc(high.mean((2, 3)))


class Fed(nn.Module):
    """The image is fed in again at each resolution (ESPNet's input reinforcement)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.one = cbr(3, 8), nn.Sequential(Block(8, 8), Block(8, 8))
        self.down1, self.two = cbr(8, 16, 2), nn.Sequential(Block(19, 19), Block(19, 19))
        self.down2, self.three = cbr(19, 24, 2), nn.Sequential(Block(27, 27), Block(27, 27))
        self.fc = nn.Linear(27, 5)

    def forward(self, x: Tensor) -> Tensor:
        half = F.avg_pool2d(x, 2)
        y = self.one(self.stem(x))
        y = self.two(torch.cat([self.down1(y), half], 1))
        y = self.three(torch.cat([self.down2(y), F.avg_pool2d(half, 2)], 1))
        return self.fc(y.mean((2, 3)))


class Dilated(nn.Module):
    """A ResNet of output stride 16 or 8: the last stages keep their resolution by dilation."""

    def __init__(self, output_stride: int) -> None:
        super().__init__()
        eight = output_stride == 8
        strides, spread = ((1, 2, 1, 1), (1, 1, 2, 4)) if eight else ((1, 2, 2, 1), (1, 1, 1, 2))
        self.body, self.fc = ResNet(*strides, spread=spread), nn.Linear(40, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.body(x)[-1].mean((2, 3)))


class Gated(nn.Module):
    """SCNet, GhostNetV2: a gate that is computed at a lower resolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gate, self.one = nn.Conv2d(width, width, 3, padding=1), cbr(width, width)
        self.two = nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        gate = torch.sigmoid(x + F.interpolate(self.gate(F.avg_pool2d(x, 4)), x.shape[2:]))
        return F.relu(self.two(self.one(x) * gate) + x)


def self_calibrated() -> nn.Module:
    return Classifier(
        16, stem=cbr(3, 8), b1=Gated(8), b2=Gated(8), down=cbr(8, 16, 2), b3=Gated(16)
    )


def dilated_from_the_start() -> nn.Module:
    """As SKNet: the first stage's own branches dilate, behind a stem that is pooled."""
    return Classifier(
        24,
        stem=nn.Sequential(cbr(3, 8, 2), nn.MaxPool2d(2)),
        stage1=nn.Sequential(Block(8, 16, spread=2), Block(16, 16, spread=2)),
        stage2=nn.Sequential(Block(16, 24, 2, spread=2), Block(24, 24, spread=2)),
    )


class Growing(nn.Module):
    """A dense layer: what it makes stands beside what it was given."""

    def __init__(self, inside: int, spread: int) -> None:
        super().__init__()
        self.make = cbr(inside, 4, spread=spread)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((x, self.make(x)), 1)


def dilated_dense() -> nn.Module:
    """As EDANet: the layers of one dense block dilate more and more."""
    spreads = (1, 1, 2, 2, 4, 4)
    layers = [Growing(8 + 4 * i, spread) for i, spread in enumerate(spreads)]
    return Classifier(32, stem=cbr(3, 8, 2), block=nn.Sequential(cbr(8, 8, 2), *layers))


def dense_from_the_image() -> nn.Module:
    """DenseNet for small images: layers of one convolution behind the first, and transitions."""

    def layers(inside: int) -> list[nn.Module]:
        return [Growing(inside + 4 * i, 1) for i in range(3)]

    def narrower(inside: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(inside, 8, 1), nn.AvgPool2d(2))

    return Classifier(
        20,
        first=nn.Conv2d(3, 8, 3, padding=1),
        stage1=nn.Sequential(*layers(8)),
        stage2=nn.Sequential(narrower(20), *layers(8)),
        stage3=nn.Sequential(narrower(20), *layers(8)),
    )


class Separable(nn.Module):
    """A depthwise convolution and a pointwise one."""

    def __init__(self, inside: int, outside: int, stride: int = 1) -> None:
        super().__init__()
        self.wide = nn.Conv2d(inside, inside, 3, stride, 1, groups=inside, bias=False)
        self.mix = cbr(inside, outside, kernel=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.mix(self.wide(x))


class Stage(nn.Module):
    """VoVNet's: a pooling, then layers whose results are put beside each other and mixed."""

    def __init__(self, inside: int, outside: int, *, pooled: bool) -> None:
        super().__init__()
        self.pool = nn.MaxPool2d(2) if pooled else nn.Identity()
        self.one, self.two = Separable(inside, inside), Separable(inside, inside)
        self.mix = cbr(2 * inside, outside, kernel=1)

    def forward(self, x: Tensor) -> Tensor:
        one = self.one(self.pool(x))
        return self.mix(torch.cat((one, self.two(one)), 1))


def stem_of_layers() -> nn.Module:
    """VoVNet with depthwise layers: its stem is made of the layers of which its stages are."""
    stages = [Stage(8, 16, pooled=False), Stage(16, 24, pooled=True), Stage(24, 32, pooled=True)]
    return Classifier(
        32,
        stem=nn.Sequential(cbr(3, 8, 2), Separable(8, 8), Separable(8, 8, 2)),
        stages=nn.Sequential(*stages),
    )


def layers_without_stages() -> nn.Module:
    """MobileNet: the same layers in one list. What is ahead of them is the stem."""
    layers = [Separable(8, 8), Separable(8, 16, 2), Separable(16, 16), Separable(16, 24, 2)]
    return Classifier(24, body=nn.Sequential(cbr(3, 8, 2), *layers, Separable(24, 24)))


def normed_scores() -> nn.Module:
    """As ResNet in ResNet: the scores are a map with a norm, which is only pooled."""
    net = Classifier(16, stem=cbr(3, 8, 2), b1=Block(8, 16, 2), b2=Block(16, 16))
    net.fc = nn.Identity()
    net.add_module("scores", nn.Sequential(nn.Conv2d(16, 5, 1), nn.BatchNorm2d(5)))
    net.names = (*net.names, "scores")
    return net


def normed_features() -> nn.Module:
    """A backbone that ends by making its map wider: this is a map of features still."""
    net = Classifier(16, stem=cbr(3, 8, 2), b1=Block(8, 16, 2), b2=Block(16, 16))
    net.fc = nn.Identity()
    net.add_module("last", nn.Sequential(nn.Conv2d(16, 40, 1), nn.BatchNorm2d(40)))
    net.names = (*net.names, "last")
    return net


class FusedAtTheEnd(nn.Module):
    """MobileNetV5: the last resolution is raised to the one before it, and both are pooled."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.b1 = cbr(3, 8, 2), Block(8, 8)
        self.b2 = nn.Sequential(Block(8, 16, 2), Block(16, 16))
        self.b3 = nn.Sequential(Block(16, 24, 2), Block(24, 24))
        self.fuse, self.fc = cbr(40, 32, kernel=1), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.b2(self.b1(self.stem(x)))
        y = self.b3(x)
        return self.fc(self.fuse(torch.cat((x, up(y, x)), 1)).mean((2, 3)))


class SmallU(nn.Module):
    """A block that goes down and up again inside."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.down, self.out = cbr(width, width, 2), cbr(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.out(up(self.down(x), x)))


def ends_with_a_small_u() -> nn.Module:
    """What is deepest is inside the last block, of which there is no other."""
    b2 = nn.Sequential(Block(8, 16, 2), Block(16, 16))
    return Classifier(16, stem=cbr(3, 8, 2), b1=Block(8, 8), b2=b2, last=SmallU(16))


class StridedStage(nn.Module):
    """A block that goes down, and one that stays."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(Block(inside, outside, 2), Block(outside, outside))

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(x)


def first_stage_with_the_stem() -> nn.Module:
    """The first stage stands in one module with the stem, the others are modules of one kind."""
    return Classifier(
        32,
        early=nn.Sequential(cbr(3, 8, 2), Block(8, 8), Block(8, 8)),
        stages=nn.Sequential(StridedStage(8, 16), StridedStage(16, 24), StridedStage(24, 32)),
    )
