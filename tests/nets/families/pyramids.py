"""Detectors as lists of layers with routes, pyramids of other forms, hourglasses."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.nets.families.detectors import Anchored, C2f, Decoupled, Sppf
from tests.nets.families.parts import Block, ResNet, cbr

Given = int | list[int]


class Concat(nn.Module):
    def forward(self, maps: list[Tensor]) -> Tensor:
        return torch.cat(maps, 1)


class Shortcut(nn.Module):
    def forward(self, maps: list[Tensor]) -> Tensor:
        return maps[0] + maps[1]


class Raise(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=2.0)


class WithMaps(Decoupled):
    """Gives the maps that it was given, too, as detectors do outside of training."""

    def forward(self, maps: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        return super().forward(maps), maps


class Routed(nn.Module):
    """A list of layers; each says by number what it is given, -1 is the layer before it."""

    def __init__(self, layers: list[tuple[Given, nn.Module]], scores: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.given, self.scores = [given for given, _ in layers], scores
        self.model = nn.ModuleList(layer for _, layer in layers)

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        kept: list[Tensor] = []
        for given, layer in zip(self.given, self.model, strict=True):
            if isinstance(given, int):
                x = layer(x if given == -1 else kept[given])
            else:
                x = layer([x if i == -1 else kept[i] for i in given])
            kept.append(x)
        return [kept[i] for i in self.scores] or x


def yolov8_by_index() -> nn.Module:
    """Backbone, neck and head of YOLOv8 as one list, as its configuration has them."""
    layers: list[tuple[Given, nn.Module]] = [
        (-1, cbr(3, 8, 2)), (-1, cbr(8, 16, 2)), (-1, C2f(16, 16)),
        (-1, cbr(16, 24, 2)), (-1, C2f(24, 24)), (-1, cbr(24, 32, 2)), (-1, C2f(32, 32)),
        (-1, cbr(32, 40, 2)), (-1, C2f(40, 40)), (-1, Sppf(40)),
        (-1, Raise()), ([-1, 6], Concat()), (-1, C2f(72, 32)),
        (-1, Raise()), ([-1, 4], Concat()), (-1, C2f(56, 24)),
        (-1, cbr(24, 24, 2)), ([-1, 12], Concat()), (-1, C2f(56, 32)),
        (-1, cbr(32, 32, 2)), ([-1, 9], Concat()), (-1, C2f(72, 40)),
        ([15, 18, 21], WithMaps(24, 32, 40, stem=False)),
    ]  # fmt: skip
    net, activation = Routed(layers), nn.ReLU()
    for unit in net.modules():  # one activation stands in all layers
        if isinstance(unit, nn.Sequential) and len(unit) == 3 and isinstance(unit[2], nn.ReLU):
            unit[2] = activation
    return net


def yolov3_by_index() -> nn.Module:
    """Redmon and Farhadi: every convolution, shortcut and route is a layer of one list."""
    layers: list[tuple[Given, nn.Module]] = [(-1, cbr(3, 8))]
    width = 8
    for wider in (16, 24, 32, 40, 48):  # shortcuts at 4, 8, 12, 16, 20
        start = len(layers)
        layers += [(-1, cbr(width, wider, 2)), (-1, cbr(wider, wider // 2, kernel=1)),
                   (-1, cbr(wider // 2, wider)), ([-1, start], Shortcut())]  # fmt: skip
        width = wider

    def convolutions(inside: int, width: int, pairs: int) -> None:
        for i in range(pairs):
            layers.append((-1, cbr(2 * width if i else inside, width, kernel=1)))
            layers.append((-1, cbr(width, 2 * width)))
        layers.append((-1, nn.Conv2d(2 * width, 21, 1)))

    convolutions(48, 24, 3)  # 21 to 27
    layers += [(25, cbr(24, 16, kernel=1)), (-1, Raise()), ([-1, 16], Concat())]
    convolutions(56, 20, 2)  # 31 to 35
    layers += [(33, cbr(20, 12, kernel=1)), (-1, Raise()), ([-1, 12], Concat())]
    convolutions(44, 16, 2)  # 39 to 43
    return Routed(layers, scores=(27, 35, 43))


class Elan(nn.Module):
    """YOLOv7's: two pointwise paths, one of which goes on; all are laid side by side."""

    def __init__(self, inside: int, width: int, outside: int) -> None:
        super().__init__()
        self.cv1, self.cv2 = cbr(inside, width, kernel=1), cbr(inside, width, kernel=1)
        self.cv3, self.cv4 = cbr(width, width), cbr(width, width)
        self.cv5 = cbr(4 * width, outside, kernel=1)

    def forward(self, x: Tensor) -> Tensor:
        kept = [self.cv1(x), self.cv2(x)]
        kept.append(self.cv3(kept[-1]))
        kept.append(self.cv4(kept[-1]))
        return self.cv5(torch.cat(kept[::-1], 1))


class Halve(nn.Module):
    """YOLOv7's step down: a pooling beside a strided convolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        half = width // 2
        self.one = nn.Sequential(nn.MaxPool2d(2), cbr(width, half, kernel=1))
        self.two = nn.Sequential(cbr(width, half, kernel=1), cbr(half, half, 2))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.two(x), self.one(x)], 1)


class SppCsp(nn.Module):
    """YOLOv7's neck begins with it: poolings beside a pointwise path, half as wide as its input."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        self.cv1, self.cv2 = cbr(inside, outside, kernel=1), cbr(inside, outside, kernel=1)
        self.cv5, self.cv7 = cbr(4 * outside, outside), cbr(2 * outside, outside, kernel=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.cv1(x)
        y = self.cv5(torch.cat([y, *(F.max_pool2d(y, k, 1, k // 2) for k in (3, 5, 7))], 1))
        return self.cv7(torch.cat([y, self.cv2(x)], 1))


def yolov7() -> nn.Module:
    """Wang et al.; what the heads look at is made by one more convolution each."""
    layers: list[tuple[Given, nn.Module]] = [
        (-1, cbr(3, 8)), (-1, cbr(8, 16, 2)), (-1, cbr(16, 16)), (-1, cbr(16, 24, 2)),
        (-1, Elan(24, 8, 32)), (-1, Halve(32)), (-1, Elan(32, 12, 40)),
        (-1, Halve(40)), (-1, Elan(40, 12, 48)), (-1, Halve(48)), (-1, Elan(48, 12, 48)),
        (-1, SppCsp(48, 24)), (-1, cbr(24, 16, kernel=1)), (-1, Raise()),
        (8, cbr(48, 16, kernel=1)), ([-1, 13], Concat()), (-1, Elan(32, 8, 24)),
        (-1, cbr(24, 12, kernel=1)), (-1, Raise()),
        (6, cbr(40, 12, kernel=1)), ([-1, 18], Concat()), (-1, Elan(24, 8, 16)),
        (-1, Halve(16)), ([-1, 16], Concat()), (-1, Elan(40, 8, 24)),
        (-1, Halve(24)), ([-1, 11], Concat()), (-1, Elan(48, 8, 32)),
        (21, cbr(16, 24)), (24, cbr(24, 32)), (27, cbr(32, 40)),
        ([28, 29, 30], Anchored(24, 32, 40)),
    ]  # fmt: skip
    return Routed(layers)


class RetinaNet(nn.Module):
    """Lin et al.: a pyramid that goes on below the backbone, and towers that all levels share."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.c2, self.c3 = cbr(3, 8, 2), Block(8, 16), Block(16, 24, 2)
        self.c4, self.c5 = Block(24, 32, 2), Block(32, 40, 2)
        self.lateral = nn.ModuleList(nn.Conv2d(width, 16, 1) for width in (24, 32, 40))
        self.smooth = nn.ModuleList(nn.Conv2d(16, 16, 3, padding=1) for _ in range(3))
        self.p6, self.p7 = nn.Conv2d(16, 16, 3, 2, 1), nn.Conv2d(16, 16, 3, 2, 1)
        self.cls = nn.Sequential(cbr(16, 16), cbr(16, 16), nn.Conv2d(16, 3, 3, padding=1))
        self.box = nn.Sequential(cbr(16, 16), cbr(16, 16), nn.Conv2d(16, 4, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        three = self.c3(self.c2(self.stem(x)))
        four = self.c4(three)
        p5 = self.lateral[2](self.c5(four))
        p4 = self.lateral[1](four) + F.interpolate(p5, scale_factor=2.0)
        p3 = self.lateral[0](three) + F.interpolate(p4, scale_factor=2.0)
        levels = [conv(p) for conv, p in zip(self.smooth, (p3, p4, p5), strict=True)]
        levels.append(self.p6(levels[-1]))
        levels.append(self.p7(F.relu(levels[-1])))
        made = [torch.cat([self.cls(p), self.box(p)], 1).flatten(2) for p in levels]
        return torch.cat(made, 2).transpose(1, 2)


class BiFpn(nn.Module):
    """One layer of EfficientDet's neck: down and up again, with weights, and an edge from each
    input to its output.
    """

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(9))
        self.t4, self.o3, self.o4, self.o5 = (cbr(16, 16) for _ in range(4))

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        (p3, p4, p5), w = maps, self.weight
        t4 = self.t4(w[0] * p4 + w[1] * F.interpolate(p5, scale_factor=2.0))
        o3 = self.o3(w[2] * p3 + w[3] * F.interpolate(t4, scale_factor=2.0))
        o4 = self.o4(w[4] * p4 + w[5] * t4 + w[6] * F.max_pool2d(o3, 2))
        return [o3, o4, self.o5(w[7] * p5 + w[8] * F.max_pool2d(o4, 2))]


class EfficientDet(nn.Module):
    """Tan et al.: layers of a weighted pyramid, one behind the other."""

    def __init__(self) -> None:
        super().__init__()
        self.body = ResNet()
        self.lateral = nn.ModuleList(nn.Conv2d(width, 16, 1) for width in (24, 32, 40))
        self.bifpn = nn.ModuleList([BiFpn(), BiFpn()])
        self.cls = nn.Sequential(cbr(16, 16), nn.Conv2d(16, 3, 3, padding=1))
        self.box = nn.Sequential(cbr(16, 16), nn.Conv2d(16, 4, 3, padding=1))

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = [conv(m) for conv, m in zip(self.lateral, self.body(x)[1:], strict=True)]
        for layer in self.bifpn:
            maps = layer(maps)
        return [head(m) for m in maps for head in (self.cls, self.box)]


class CenterNet(nn.Module):
    """Xiao et al., Zhou et al.: a ResNet, three transposed convolutions, a head for each answer."""

    def __init__(self) -> None:
        super().__init__()
        self.body = ResNet()
        layers: list[nn.Module] = []
        for inside, outside in ((40, 24), (24, 16), (16, 16)):
            raised = nn.ConvTranspose2d(inside, outside, 4, 2, 1, bias=False)
            layers += [raised, nn.BatchNorm2d(outside), nn.ReLU()]
        self.deconv = nn.Sequential(*layers)
        self.heat = nn.Sequential(cbr(16, 16), nn.Conv2d(16, 3, 1))
        self.size = nn.Sequential(cbr(16, 16), nn.Conv2d(16, 2, 1))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        y = self.deconv(self.body(x)[-1])
        return {"heat": self.heat(y).sigmoid(), "size": self.size(y)}


class Hourglass(nn.Module):
    """Newell et al.: down to the deepest resolution and up again, a block on every skip."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.beside, self.before, self.after = Block(16, 16), Block(16, 16), Block(16, 16)
        self.inner = Hourglass(depth - 1) if depth > 1 else Block(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        y = self.after(self.inner(self.before(F.max_pool2d(x, 2))))
        return self.beside(x) + F.interpolate(y, scale_factor=2.0)


class Pose(nn.Module):
    """One hourglass, or several of which each is given what the one before has found."""

    def __init__(self, stacks: int) -> None:
        super().__init__()
        self.pre = nn.Sequential(cbr(3, 8, 2), Block(8, 16), nn.MaxPool2d(2), Block(16, 16))
        self.glass = nn.ModuleList(Hourglass(2) for _ in range(stacks))
        self.feature = nn.ModuleList(
            nn.Sequential(Block(16, 16), cbr(16, 16, kernel=1)) for _ in range(stacks)
        )
        self.score = nn.ModuleList(nn.Conv2d(16, 3, 1) for _ in range(stacks))
        self.again = nn.ModuleList(nn.Conv2d(16, 16, 1) for _ in range(stacks - 1))
        self.fed = nn.ModuleList(nn.Conv2d(3, 16, 1) for _ in range(stacks - 1))

    def forward(self, x: Tensor) -> list[Tensor]:
        x, scores = self.pre(x), []
        for i, (glass, feature) in enumerate(zip(self.glass, self.feature, strict=True)):
            y = feature(glass(x))
            scores.append(self.score[i](y))
            if i < len(self.again):
                x = x + self.again[i](y) + self.fed[i](scores[-1])
        return scores


def three(inside: int, width: int) -> nn.Module:
    return nn.Sequential(
        cbr(inside, width, kernel=1), cbr(width, 2 * width), cbr(2 * width, width, kernel=1)
    )


class YoloV4(nn.Module):
    """Bochkovskiy et al.: poolings and convolutions, then a path aggregation of plain ones."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.before, self.behind = ResNet(), three(40, 20), three(80, 20)
        self.lat4, self.lat3 = cbr(32, 12, kernel=1), cbr(24, 8, kernel=1)
        self.up5, self.up4 = cbr(20, 12, kernel=1), cbr(12, 8, kernel=1)
        self.m4, self.m3, self.n4, self.n5 = (
            three(24, 12),
            three(16, 8),
            three(24, 12),
            three(40, 20),
        )
        self.down3, self.down4 = cbr(8, 12, 2), cbr(12, 20, 2)
        self.head = nn.ModuleList(
            nn.Sequential(cbr(w, 2 * w), nn.Conv2d(2 * w, 21, 1)) for w in (8, 12, 20)
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        _, c3, c4, c5 = self.backbone(x)
        y = self.before(c5)
        p5 = self.behind(torch.cat([*(F.max_pool2d(y, k, 1, k // 2) for k in (3, 5, 7)), y], 1))
        up5 = F.interpolate(self.up5(p5), scale_factor=2.0)
        p4 = self.m4(torch.cat([self.lat4(c4), up5], 1))
        up4 = F.interpolate(self.up4(p4), scale_factor=2.0)
        p3 = self.m3(torch.cat([self.lat3(c3), up4], 1))
        n4 = self.n4(torch.cat([self.down3(p3), p4], 1))
        n5 = self.n5(torch.cat([self.down4(n4), p5], 1))
        return [head(m) for head, m in zip(self.head, (p3, n4, n5), strict=True)]


class Proposals(nn.Module):
    """Ren et al. on a pyramid: one small network looks for objects at all resolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.body = ResNet()
        self.lateral = nn.ModuleList(nn.Conv2d(width, 16, 1) for width in (16, 24, 32, 40))
        self.smooth = nn.ModuleList(nn.Conv2d(16, 16, 3, padding=1) for _ in range(4))
        self.look = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.ReLU())
        self.objects, self.boxes = nn.Conv2d(16, 3, 1), nn.Conv2d(16, 12, 1)

    def forward(self, x: Tensor) -> list[tuple[Tensor, Tensor]]:
        maps = self.body(x)
        y = self.lateral[3](maps[3])
        pyramid = [self.smooth[3](y)]
        for i in (2, 1, 0):
            y = self.lateral[i](maps[i]) + F.interpolate(y, scale_factor=2.0)
            pyramid.append(self.smooth[i](y))
        pyramid.append(F.max_pool2d(pyramid[0], 1, 2))
        seen = [self.look(p) for p in pyramid]
        return [(self.objects(s), self.boxes(s)) for s in seen]


class Detr(nn.Module):
    """Carion et al.: a transformer encodes the last map; learned queries ask it for objects."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.enter = ResNet(), nn.Conv2d(40, 16, 1)
        self.tr = nn.Transformer(16, 2, 1, 1, 32, batch_first=True)
        self.queries = nn.Parameter(torch.rand(10, 16))
        self.cls, self.box = nn.Linear(16, 4), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        tokens = self.enter(self.body(x)[-1]).flatten(2).transpose(1, 2)
        y = self.tr(tokens, self.queries.unsqueeze(0).expand(len(x), -1, -1))
        return self.cls(y), self.box(y).sigmoid()
