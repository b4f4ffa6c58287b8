"""Where stages begin and the encoder ends: layers in a row, exits, predictions fed in again."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.nets.families.parts import Block, Classifier, cbr, twice

# Predictions.


class Prediction(nn.Module):
    """Two kinds of scores, made by layers of their own; the features go on beside them."""

    def __init__(self, inside: int, features: int, scores: tuple[int, int]) -> None:
        super().__init__()
        self.body = nn.Sequential(cbr(inside, features), Block(features, features))
        self.one, self.two = (
            nn.Sequential(cbr(features, features, kernel=1), nn.Conv2d(features, n, 1))
            for n in scores
        )

    def forward(self, x: Tensor, features: Tensor) -> Tensor:
        y = self.body(x)
        return torch.cat((features, self.one(y), self.two(y)), 1)


class Refined(nn.Module):
    """Convolutional pose machines, OpenPose: maps of joints are predicted, and again from these."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = cbr(3, 8, 2)
        self.c2 = nn.Sequential(Block(8, 16, 2), Block(16, 16))
        self.c3 = nn.Sequential(Block(16, 32, 2), Block(32, 32))
        self.features = nn.Sequential(cbr(32, 24), cbr(24, 24))
        self.first = Prediction(24, 24, (5, 9))
        self.second = Prediction(24 + 5 + 9, 24, (5, 9))

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(self.c3(self.c2(self.stem(x))))
        return self.second(self.first(x, x), x)[:, -14:]


class Looked(nn.Module):
    """Behind a backbone that keeps its first resolution the scores are normed and bent, too."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = cbr(3, 8)
        self.one = nn.Sequential(Block(8, 8), Block(8, 8))
        self.two = nn.Sequential(Block(8, 16, spread=2), Block(16, 16, spread=2))
        self.three = nn.Sequential(Block(16, 32, spread=4), Block(32, 32, spread=4))
        self.last, self.scores = cbr(32, 40, kernel=1), cbr(40, 3, kernel=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.scores(self.last(self.three(self.two(self.one(self.stem(x))))))


class Narrowed(Looked):
    """The same with a last layer that gives features: more than the image network began with."""

    def __init__(self) -> None:
        super().__init__()
        self.scores = cbr(40, 24, kernel=1)


# Exits.


class Exit(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.down, self.fc = (
            nn.Sequential(cbr(width, width, 2), cbr(width, width, 2)),
            nn.Linear(width, 5),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.down(x).mean((2, 3)))


class LastExit(nn.Module):
    """MSDNet as it is run for its last answer: all exits work, and one is returned."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, widths = cbr(3, 8, 2), ((8, 8, 1), (8, 16, 2), (16, 24, 2))
        self.stages = nn.ModuleList(
            nn.Sequential(Block(*args), Block(args[1], args[1])) for args in widths
        )
        self.exits = nn.ModuleList(Exit(w) for _, w, _ in widths)

    def forward(self, x: Tensor) -> Tensor:
        x, found = self.stem(x), []
        for stage, end in zip(self.stages, self.exits, strict=True):
            x = stage(x)
            found.append(end(x))
        return found[-1]


class OneExit(nn.Module):
    """The same with one classifier: the steps before its pooling are the network's."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = cbr(3, 8, 2)
        self.stages = nn.Sequential(
            nn.Sequential(Block(8, 8), Block(8, 8)), nn.Sequential(Block(8, 16, 2), Block(16, 16))
        )
        self.exit = Exit(16)

    def forward(self, x: Tensor) -> Tensor:
        return self.exit(self.stages(self.stem(x)))


# Detection on a network that goes on down.


class Scaled(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((width,), 20.0))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight.view(1, -1, 1, 1) * F.normalize(x)


class SsdWithExtras(nn.Module):
    """Liu et al.: conv4_3, normed, conv7, and what convolutions make of it further down."""

    def __init__(self) -> None:
        super().__init__()
        pool = nn.MaxPool2d(2, 2, ceil_mode=True)
        self.upto4 = nn.Sequential(*twice(3, 8), pool, *twice(8, 12), pool, *twice(12, 16))
        self.norm = Scaled(16)
        self.upto7 = nn.Sequential(pool, *twice(16, 24), cbr(24, 24, kernel=1))
        self.extras = nn.ModuleList(
            nn.Sequential(cbr(inside, 8, kernel=1), cbr(8, 20, 2)) for inside in (24, 20)
        )
        widths = (16, 24, 20, 20)
        self.boxes = nn.ModuleList(nn.Conv2d(w, 2 * 4, 3, padding=1) for w in widths)
        self.classes = nn.ModuleList(nn.Conv2d(w, 2 * 7, 3, padding=1) for w in widths)

    @staticmethod
    def rows(maps: list[Tensor], heads: nn.ModuleList, size: int) -> Tensor:
        made = [head(x).permute(0, 2, 3, 1) for head, x in zip(heads, maps, strict=True)]
        return torch.cat([y.reshape(len(y), -1, size) for y in made], 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.upto4(x)
        maps, x = [self.norm(x)], self.upto7(x)
        maps.append(x)
        for extra in self.extras:
            x = extra(x)
            maps.append(x)
        return self.rows(maps, self.boxes, 4), self.rows(maps, self.classes, 7)


class Features(nn.Module):
    """A backbone alone: it gives its maps, and nothing looks at them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = cbr(3, 8, 2)
        self.c2 = nn.Sequential(Block(8, 16, 2), Block(16, 16))
        self.c3 = nn.Sequential(Block(16, 32, 2), Block(32, 32))

    def forward(self, x: Tensor) -> list[Tensor]:
        two = self.c2(self.stem(x))
        return [two, self.c3(two)]


# Where stages begin.


class OneUnit(nn.Module):
    """V-Net's first stage: one convolution, and the image added as often as it has channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(3, 9, 5, padding=2), nn.BatchNorm2d(9))
        self.act = nn.ELU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.conv(x) + x.repeat(1, 3, 1, 1))


class VNetOfOneUnit(nn.Module):
    """What its first stage gives crosses to the last of the decoder."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = OneUnit()
        self.down1 = nn.Sequential(nn.Conv2d(9, 16, 2, 2), nn.BatchNorm2d(16), nn.ELU())
        self.down2 = nn.Sequential(nn.Conv2d(16, 24, 2, 2), nn.BatchNorm2d(24), nn.ELU())
        self.enc2, self.enc3 = Block(16, 16), Block(24, 24)
        self.up2, self.up1 = nn.ConvTranspose2d(24, 16, 2, 2), nn.ConvTranspose2d(32, 9, 2, 2)
        self.dec2, self.dec1, self.out = Block(32, 32), Block(18, 18), nn.Conv2d(18, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        one = self.enter(x)
        two = self.enc2(self.down1(one))
        y = self.up2(self.enc3(self.down2(two)))
        y = self.up1(self.dec2(torch.cat([y, two], 1)))
        return self.out(self.dec1(torch.cat([y, one], 1)))


class Parallel(nn.Module):
    """SQNet's: four dilations of one map are summed where the way up begins."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.ways = nn.ModuleList(cbr(width, width, spread=i) for i in (1, 2, 3, 4))

    def forward(self, x: Tensor) -> Tensor:
        return sum(way(x) for way in self.ways)  # type: ignore[return-value]


class Rising(nn.Module):
    def __init__(self, inside: int, outside: int, parallel: bool = False) -> None:
        super().__init__()
        self.conv = Parallel(inside) if parallel else cbr(inside, inside)
        up = nn.ConvTranspose2d(inside, outside, 3, 2, 1, 1)
        self.deconv = nn.Sequential(up, nn.ELU())

    def forward(self, x: Tensor) -> Tensor:
        return self.deconv(self.conv(x))


class SqNet(nn.Module):
    """Treml et al.: each step up is a convolution and a transposed one, in one module."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = cbr(3, 8, 2)
        self.down1 = nn.Sequential(nn.MaxPool2d(2), *twice(8, 16))
        self.down2 = nn.Sequential(nn.MaxPool2d(2), *twice(16, 24))
        self.skip1, self.skip2 = cbr(8, 8), cbr(16, 16)
        self.up2, self.up1 = Rising(24, 16, parallel=True), Rising(32, 8)
        self.head = Rising(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        one = self.stem(x)
        two = self.down1(one)
        y = torch.cat((self.up2(self.down2(two)), self.skip2(two)), 1)
        return self.head(torch.cat((self.up1(y), self.skip1(one)), 1))


def _pooled(inside: int, middle: int, outside: int) -> nn.Module:
    """An inverted residual that steps down by a pooling behind its convolution (anti-aliased)."""
    project = nn.Sequential(nn.Conv2d(middle, outside, 1, bias=False), nn.BatchNorm2d(outside))
    return nn.Sequential(cbr(inside, middle), nn.AvgPool2d(2), project)


class Plain(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(cbr(width, 2 * width, kernel=1), nn.Conv2d(2 * width, width, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class Blurred(nn.Module):
    """A unit that looks around, widens, looks around, pools and narrows."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inside, inside, 3, padding=1, groups=inside, bias=False)
        self.widen = cbr(inside, 4 * inside, kernel=1)
        self.middle = nn.Sequential(cbr(4 * inside, 4 * inside), nn.AvgPool2d(2))
        self.narrow = nn.Conv2d(4 * inside, outside, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.narrow(self.middle(self.widen(self.first(x))))


def blurred() -> nn.Module:
    """MobileNetV4 with blur pooling: its steps stand inside the units."""
    return Classifier(
        32,
        stem=cbr(3, 8, 2),
        blocks=nn.Sequential(
            nn.Sequential(_pooled(8, 32, 12)),
            nn.Sequential(Blurred(12, 24), Plain(24)),
            nn.Sequential(Blurred(24, 32), Plain(32)),
        ),
    )


def separable_in_a_row() -> nn.Module:
    """MNASNet: a depthwise convolution with its linear projection, unpacked, is the first block."""
    separable = [
        nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 6, 1, bias=False),
        nn.BatchNorm2d(6),
    ]
    first = [nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU()]
    stacks = [nn.Sequential(Inverted(i, o, 2), Inverted(o, o)) for i, o in ((6, 12), (12, 24))]
    return Classifier(24, layers=nn.Sequential(*first, *separable, *stacks))


class Inverted(nn.Module):
    def __init__(self, inside: int, outside: int, stride: int = 1) -> None:
        super().__init__()
        self.adds, wide = stride == 1 and inside == outside, 3 * inside
        depthwise = nn.Conv2d(wide, wide, 3, stride, 1, groups=wide, bias=False)
        self.body = nn.Sequential(
            cbr(inside, wide, kernel=1), depthwise, nn.ReLU(), nn.Conv2d(wide, outside, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.adds else self.body(x)


# Streams that step down.


class Stepping(nn.Module):
    """i-RevNet's unit: two halves change places; positions become channels where it steps down."""

    def __init__(self, width: int, stride: int) -> None:
        super().__init__()
        self.stride, outside = stride, width * stride**2
        self.f = nn.Sequential(cbr(width, width, stride), nn.Conv2d(width, outside, 3, padding=1))

    def forward(self, pair: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        one, two = pair
        made = self.f(two)
        one, two = F.pixel_unshuffle(one, self.stride), F.pixel_unshuffle(two, self.stride)
        return two, one + made


class SteppingStreams(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        steps = ((6, 2), (24, 1), (24, 2), (96, 1))
        self.units = nn.ModuleList(Stepping(*step) for step in steps)
        self.norm, self.fc = nn.BatchNorm2d(192), nn.Linear(192, 5)

    def forward(self, x: Tensor) -> Tensor:
        one, two = F.pixel_unshuffle(x, 2).chunk(2, 1)
        for unit in self.units:
            one, two = unit((one, two))
        return self.fc(F.relu(self.norm(torch.cat((one, two), 1))).mean((2, 3)))
