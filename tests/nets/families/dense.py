"""Dense prediction and restoration, after networks as their authors publish them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.nets.families.parts import Block, ResNet, cbr, twice, up


class TwoWays(nn.Module):
    """Hong et al., DDRNet: a way that stays at an eighth exchanges with one that goes on down."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(cbr(3, 8, 2), cbr(8, 8, 2))
        self.one, self.two = self._blocks(8, 8), self._blocks(8, 16, 2)
        self.three, self.four = self._blocks(16, 24, 2), self._blocks(24, 32, 2)
        self.five = Block(32, 40, 2)
        self.fine3, self.fine4, self.fine5 = (self._blocks(16, 16) for _ in range(3))
        self.narrow3, self.narrow4 = nn.Conv2d(24, 16, 1), nn.Conv2d(32, 16, 1)
        self.down3 = nn.Conv2d(16, 24, 3, 2, 1)
        self.down4 = nn.Sequential(cbr(16, 24, 2), nn.Conv2d(24, 32, 3, 2, 1))
        self.context = nn.Conv2d(40, 16, 1)
        self.score = nn.Sequential(cbr(16, 16), nn.Conv2d(16, 5, 1))

    @staticmethod
    def _blocks(inside: int, outside: int, stride: int = 1) -> nn.Module:
        return nn.Sequential(Block(inside, outside, stride), Block(outside, outside))

    def forward(self, x: Tensor) -> Tensor:
        two = self.two(self.one(self.stem(x)))
        deep, fine = self.three(two), self.fine3(two)
        lower = F.relu(deep + self.down3(fine))
        fine = F.relu(fine + up(self.narrow3(deep), fine))
        deep, fine = self.four(lower), self.fine4(fine)
        lower = F.relu(deep + self.down4(fine))
        fine = self.fine5(F.relu(fine + up(self.narrow4(deep), fine)))
        return up(self.score(fine + up(self.context(self.five(lower)), fine)), x)


class Diffusion(nn.Module):
    """Ho et al.: every block of the encoder is met by one of the decoder, the deepest first."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.one = nn.ModuleList(Block(8, 8) for _ in range(2))
        self.two = nn.ModuleList((Block(8, 16), Block(16, 16)))
        self.down, self.up = nn.Conv2d(8, 8, 3, 2, 1), nn.Conv2d(16, 16, 3, padding=1)
        self.middle = nn.Sequential(Block(16, 16), Block(16, 16))
        self.back2 = nn.ModuleList((Block(32, 16), Block(32, 16), Block(24, 16)))
        self.back1 = nn.ModuleList((Block(24, 8), Block(16, 8), Block(16, 8)))
        self.last = nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        kept = [y]
        for block in self.one:
            y = block(y)
            kept.append(y)
        y = self.down(y)
        kept.append(y)
        for block in self.two:
            y = block(y)
            kept.append(y)
        y = self.middle(y)
        for block in self.back2:
            y = block(torch.cat((y, kept.pop()), 1))
        y = self.up(F.interpolate(y, scale_factor=2))
        for block in self.back1:
            y = block(torch.cat((y, kept.pop()), 1))
        return self.last(y)


class Gate(nn.Module):
    """Squeeze and excitation, its gate expanded as what it gates."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(width, 4), nn.ReLU(), nn.Linear(4, width), nn.Sigmoid()
        )

    def forward(self, x: Tensor) -> Tensor:
        n, c = x.shape[:2]
        return x * self.layers(x.mean((2, 3))).view(n, c, 1, 1).expand_as(x)


class GatedUNet(nn.Module):
    """A U-Net with such a gate behind every block of its encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.e1 = nn.Sequential(*twice(3, 8), Gate(8))
        self.e2 = nn.Sequential(*twice(8, 16), Gate(16))
        self.e3 = nn.Sequential(*twice(16, 24), Gate(24))
        self.d2, self.d1 = twice(40, 16), twice(24, 8)
        self.score = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        one = self.e1(x)
        two = self.e2(F.max_pool2d(one, 2))
        y = self.e3(F.max_pool2d(two, 2))
        y = self.d2(torch.cat((up(y, two), two), 1))
        return self.score(self.d1(torch.cat((up(y, one), one), 1)))


class TinyYolo(nn.Module):
    """Two heads; what the deeper one looks at is a pointwise layer that is raised, too."""

    def __init__(self) -> None:
        super().__init__()
        self.body = ResNet()
        self.narrow, self.raised = cbr(40, 24, kernel=1), cbr(24, 16, kernel=1)
        self.head5 = nn.Sequential(cbr(24, 24), nn.Conv2d(24, 15, 1))
        self.head4 = nn.Sequential(cbr(48, 24), nn.Conv2d(24, 15, 1))

    def forward(self, x: Tensor) -> list[Tensor]:
        _, _, four, five = self.body(x)
        five = self.narrow(five)
        return [self.head5(five), self.head4(torch.cat((up(self.raised(five), four), four), 1))]


class Watched(nn.Module):
    """Scores of the decoder's last map, and in training of two that stand before it."""

    def __init__(self) -> None:
        super().__init__()
        self.body = ResNet()
        self.low, self.mid = cbr(40, 16), cbr(32, 16)
        self.after5, self.after4 = cbr(16, 16), cbr(16, 16)
        self.fuse = cbr(16 + 24, 16, kernel=1)
        self.heads = nn.ModuleList(
            nn.Sequential(cbr(16, 12), nn.Conv2d(12, 5, 1)) for _ in range(3)
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        _, three, four, five = self.body(x)
        low = self.after5(up(self.low(five), four))
        mid = self.after4(up(self.mid(four) + low, three))
        maps = self.fuse(torch.cat((three, mid), 1)), mid, low
        return [up(head(y), x) for head, y in zip(self.heads, maps, strict=True)]


class Fusion(nn.Module):
    """Takes in what crosses, where there is such, and works on the sum."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = Block(16, 16), Block(16, 16)

    def forward(self, y: Tensor, crossing: Tensor | None = None) -> Tensor:
        return self.two(y if crossing is None else y + self.one(crossing))


class HeldBackbone(nn.Module):
    """Ranftl et al., MiDaS: the backbone's layers are called one by one, out of what holds them;
    the decoder's first block works at the deepest resolution.
    """

    def __init__(self) -> None:
        super().__init__()
        self.body = ResNet()
        self.fit = nn.ModuleList(nn.Conv2d(w, 16, 3, padding=1) for w in (16, 24, 32, 40))
        self.fuse = nn.ModuleList(Fusion() for _ in range(4))
        self.out = nn.Sequential(cbr(16, 8), nn.Conv2d(8, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        y, maps = self.body.stem(x), []
        for i in range(1, 5):
            y = self.body.get_submodule(f"layer{i}")(y)
            maps.append(self.fit[i - 1](y))
        y = self.fuse[3](maps[3])
        for i in (2, 1, 0):
            y = self.fuse[i](up(y, maps[i]), maps[i])
        return up(self.out(y), x)


class FastDepth(nn.Module):
    """Wofk et al.: five layers of one kind go up, of which the first is at the deepest."""

    def __init__(self) -> None:
        super().__init__()
        widths = (8, 16, 24, 32)
        self.down = nn.ModuleList(
            self._separable(a, b, 2) for a, b in zip((3, *widths), widths, strict=False)
        )
        self.back = nn.ModuleList(
            nn.Sequential(cbr(a, a, kernel=5), cbr(a, b, kernel=1))
            for a, b in ((32, 24), (24, 16), (16, 8), (8, 8))
        )
        self.score = cbr(8, 1, kernel=1)

    @staticmethod
    def _separable(inside: int, outside: int, stride: int) -> nn.Module:
        layers = (cbr(inside, inside, stride), cbr(inside, outside, kernel=1))
        return nn.Sequential(*layers[0], *layers[1])

    def forward(self, x: Tensor) -> Tensor:
        maps = []
        for layer in self.down:
            x = layer(x)
            maps.append(x)
        for i, layer in enumerate(self.back):
            x = F.interpolate(layer(x), scale_factor=2)
            if i < 2:
                x = x + maps[2 - i]
        return self.score(x)


class Rows(nn.Module):
    """A residual layer on tokens."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.layer = nn.LayerNorm(width), nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.out(F.gelu(self.layer(self.norm(x))))


class Laid(nn.Module):
    """A convolution on tokens that are laid out as a map, and back."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        n, length, width = x.shape
        side = int(length**0.5)
        y = x.transpose(1, 2).contiguous().view(n, width, side, side)
        return self.layer(y).flatten(2).transpose(1, 2).contiguous()


class TokenU(nn.Module):
    """Wang et al., Uformer: blocks are given tokens, steps down and up lay them out first."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Conv2d(3, 8, 3, padding=1)
        self.e1, self.e2, self.e3 = (nn.Sequential(Rows(w), Rows(w)) for w in (8, 16, 24))
        self.down1 = Laid(nn.Conv2d(8, 16, 4, 2, 1))
        self.down2 = Laid(nn.Conv2d(16, 24, 4, 2, 1))
        self.up2 = Laid(nn.ConvTranspose2d(24, 16, 2, 2))
        self.up1 = Laid(nn.ConvTranspose2d(32, 8, 2, 2))
        self.d2, self.d1 = (nn.Sequential(Rows(w), Rows(w)) for w in (32, 16))
        self.leave = Laid(nn.Conv2d(16, 3, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        one = self.e1(self.enter(x).flatten(2).transpose(1, 2))
        two = self.e2(self.down1(one))
        y = self.e3(self.down2(two))
        y = self.d2(torch.cat((self.up2(y), two), 2))
        y = self.d1(torch.cat((self.up1(y), one), 2))
        return x + self.leave(y).transpose(1, 2).reshape(x.shape)


class Laplacian(nn.Module):
    """Lai et al.: each step enlarges the image by weights, and adds what the features say."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.LeakyReLU())
        self.features = nn.ModuleList(self._step() for _ in range(2))
        self.images = nn.ModuleList(nn.ConvTranspose2d(3, 3, 4, 2, 1) for _ in range(2))
        self.rest = nn.ModuleList(nn.Conv2d(8, 3, 3, padding=1) for _ in range(2))

    @staticmethod
    def _step() -> nn.Module:
        layers = (nn.Conv2d(8, 8, 3, padding=1), nn.LeakyReLU())
        more = (nn.Conv2d(8, 8, 3, padding=1), nn.LeakyReLU())
        return nn.Sequential(*layers, *more, nn.ConvTranspose2d(8, 8, 4, 2, 1), nn.LeakyReLU())

    def forward(self, x: Tensor) -> list[Tensor]:
        y, made = self.enter(x), []
        for features, image, rest in zip(self.features, self.images, self.rest, strict=True):
            y = features(y)
            x = image(x) + rest(y)
            made.append(x)
        return made


class Corners(nn.Module):
    """Law and Deng, CornerNet: of every stack two heads look, each with a layer of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.pre = nn.Sequential(cbr(3, 8, 2), Block(8, 16, 2))
        self.glass = nn.ModuleList(self._glass() for _ in range(2))
        self.after = nn.ModuleList(cbr(16, 16) for _ in range(2))
        self.heads = nn.ModuleList(
            nn.Sequential(nn.Conv2d(16, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, c, 1))
            for c in (3, 2, 3, 2)
        )
        self.again, self.kept = nn.Conv2d(16, 16, 1), nn.Conv2d(16, 16, 1)
        self.between = Block(16, 16)

    @staticmethod
    def _glass() -> nn.Module:
        return Glass()

    def forward(self, x: Tensor) -> list[Tensor]:
        x, found = self.pre(x), []
        for i, (glass, after) in enumerate(zip(self.glass, self.after, strict=True)):
            y = after(glass(x))
            found += [self.heads[2 * i](y), self.heads[2 * i + 1](y)]
            if not i:
                x = self.between(F.relu(self.kept(x) + self.again(y)))
        return found


class Glass(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.beside, self.down, self.below = Block(16, 16), Block(16, 24, 2), Block(24, 24)
        self.back = Block(24, 16)

    def forward(self, x: Tensor) -> Tensor:
        return self.beside(x) + F.interpolate(self.back(self.below(self.down(x))), scale_factor=2)


class Around(nn.Module):
    """A head that looks around before it scores, and lays what it gathers beside the map."""

    def __init__(self, inside: int) -> None:
        super().__init__()
        self.gather = cbr(inside, 16)
        self.last = nn.Sequential(cbr(inside + 16, 16), nn.Conv2d(16, 5, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.cat((x, self.gather(x)), 1))


class FlatSegmenter(nn.Module):
    """Huang et al., CCNet: stages and head stand in one module, and stage 3 is scored, too."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(cbr(3, 8, 2), nn.MaxPool2d(3, 2, 1))
        self.layer1 = nn.Sequential(Block(8, 16), Block(16, 16))
        self.layer2 = nn.Sequential(Block(16, 24, 2), Block(24, 24))
        self.layer3 = nn.Sequential(Block(24, 32, spread=2), Block(32, 32, spread=2))
        self.layer4 = nn.Sequential(Block(32, 40, spread=4), Block(40, 40, spread=4))
        self.head = Around(40)
        self.aside = nn.Sequential(cbr(32, 16), nn.Conv2d(16, 5, 1))

    def forward(self, x: Tensor) -> list[Tensor]:
        three = self.layer3(self.layer2(self.layer1(self.stem(x))))
        aside = self.aside(three)
        return [self.head(self.layer4(three)), aside]


class Cropped(nn.Module):
    """A denoiser that puts a border around the image, and cuts it off in the end (SwinIR)."""

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 3, 3, padding=1)
        self.body = nn.Sequential(Block(8, 8), Block(8, 8), nn.Conv2d(8, 8, 3, padding=1))
        self.register_buffer("mean", torch.rand(1, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        x = F.pad(x - self.mean, (0, 4, 0, 4), "reflect")
        y = self.first(x)
        return (x + self.last(self.body(y) + y) + self.mean)[:, :, :height, :width]


class Matched(nn.Module):
    """One network runs for each of two images, and lays two of its depths side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.features = Depths()
        self.match = nn.Sequential(cbr(32, 16), nn.Conv2d(16, 1, 1))

    def forward(self, one: Tensor, two: Tensor) -> Tensor:
        both = torch.cat((self.features(one), self.features(two)), 1)
        return up(self.match(both), one)


class Depths(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = cbr(3, 8, 2)
        self.one = nn.Sequential(Block(8, 16), Block(16, 16))
        self.two = nn.Sequential(Block(16, 24, 2), Block(24, 24))
        self.join = cbr(16 + 24, 16)

    def forward(self, x: Tensor) -> Tensor:
        one = self.one(self.stem(x))
        return self.join(torch.cat((one, up(self.two(one), one)), 1))


class FittedUp(nn.Module):
    """Yu et al., DLA's way up: a layer fits each value to what it meets, and is raised."""

    def __init__(self) -> None:
        super().__init__()
        self.body = ResNet()
        self.fit = nn.ModuleList(cbr(a, b, kernel=1) for a, b in ((40, 32), (32, 24), (24, 16)))
        self.node = nn.ModuleList(cbr(2 * w, w) for w in (32, 24, 16))
        self.heat = nn.Sequential(nn.Conv2d(16, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 3, 1))
        self.size = nn.Sequential(nn.Conv2d(16, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 2, 1))

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = self.body(x)
        y = maps[3]
        for i, (fit, node) in enumerate(zip(self.fit, self.node, strict=True)):
            crossing = maps[2 - i]
            y = node(torch.cat((crossing, up(fit(y), crossing)), 1))
        return [self.heat(y), self.size(y)]


class Further(nn.Module):
    """Given the levels of a pyramid, adds two."""

    def __init__(self) -> None:
        super().__init__()
        self.p6, self.p7 = (nn.Conv2d(24, 24, 3, 2, 1) for _ in range(2))

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        six = self.p6(maps[-1])
        return [*maps, six, self.p7(F.relu(six))]


class FurtherLevels(nn.Module):
    """RetinaNet as torchvision writes it: a module is given the pyramid and gives a longer one."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.further = ResNet(), Further()
        self.lateral = nn.ModuleList(nn.Conv2d(w, 24, 1) for w in (24, 32, 40))
        self.smooth = nn.ModuleList(nn.Conv2d(24, 24, 3, padding=1) for _ in range(3))
        self.head = nn.Sequential(cbr(24, 24), nn.Conv2d(24, 10, 3, padding=1))

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = [lay(y) for lay, y in zip(self.lateral, self.body(x)[1:], strict=True)]
        for i in (1, 0):
            maps[i] = maps[i] + up(maps[i + 1], maps[i])
        maps = [smooth(y) for smooth, y in zip(self.smooth, maps, strict=True)]
        return [self.head(y) for y in self.further(maps)]


class Modulated(nn.Module):
    """A norm whose scale and shift are made of the picture itself, at every resolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.InstanceNorm2d(width)
        self.shared = nn.Sequential(nn.Conv2d(5, 8, 3, padding=1), nn.ReLU())
        self.scale, self.shift = (nn.Conv2d(8, width, 3, padding=1) for _ in range(2))
        self.layer = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor, picture: Tensor) -> Tensor:
        made = self.shared(F.interpolate(picture, size=x.shape[2:]))
        y = self.norm(x) * (1 + self.scale(made)) + self.shift(made)
        return x + self.layer(F.leaky_relu(y, 0.2))


class Painter(nn.Module):
    """Park et al., SPADE: a picture of classes, made small, grows to an image."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(5, 16, 3, padding=1)
        self.blocks = nn.ModuleList(Modulated(16) for _ in range(4))
        self.image = nn.Conv2d(16, 3, 3, padding=1)

    def forward(self, picture: Tensor) -> Tensor:
        y = self.blocks[0](self.first(F.interpolate(picture, scale_factor=0.125)), picture)
        for block in self.blocks[1:]:
            y = block(F.interpolate(y, scale_factor=2), picture)
        return torch.tanh(self.image(F.leaky_relu(y, 0.2)))


class BentScores(nn.Module):
    """Treml et al., SQNet: what the network gives are scores, raised, normed and bent; its first
    layers have fewer channels than there are classes.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.down = cbr(3, 4, 2), nn.Sequential(nn.MaxPool2d(2), *twice(4, 24))
        self.deep = nn.Sequential(nn.MaxPool2d(2), *twice(24, 32))
        self.back2, self.back1 = twice(56, 24), twice(28, 16)
        raised = nn.ConvTranspose2d(16, 7, 2, 2)
        self.scores = nn.Sequential(raised, nn.BatchNorm2d(7), nn.ELU())

    def forward(self, x: Tensor) -> Tensor:
        one = self.stem(x)
        two = self.down(one)
        y = self.back2(torch.cat((up(self.deep(two), two), two), 1))
        return self.scores(self.back1(torch.cat((up(y, one), one), 1)))


class WithoutScores(BentScores):
    """The same without a head: what it gives is a map of the decoder."""

    def __init__(self) -> None:
        super().__init__()
        self.scores = nn.Sequential()
