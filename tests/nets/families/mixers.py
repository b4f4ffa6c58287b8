"""Classifiers of maps and tokens, with several exits, heads or branches."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.nets.families.parts import Block, Classifier, cbr


class Res2(nn.Module):
    """Gao et al.: parts of the channels, each convolved with what the part before gave."""

    def __init__(self, inside: int, outside: int, stride: int = 1) -> None:
        super().__init__()
        self.part = outside // 4
        self.one = cbr(inside, outside, stride)
        self.convs = nn.ModuleList(cbr(self.part, self.part) for _ in range(3))
        self.last = nn.Sequential(nn.Conv2d(outside, outside, 1), nn.BatchNorm2d(outside))
        plain = stride == 1 and inside == outside
        self.short = nn.Identity() if plain else nn.Conv2d(inside, outside, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        first, *parts = torch.split(self.one(x), self.part, 1)
        made = [first]
        for conv, part in zip(self.convs, parts, strict=True):
            made.append(conv(part + made[-1] if len(made) > 1 else part))
        return F.relu(self.last(torch.cat(made, 1)) + self.short(x))


def res2net() -> nn.Module:
    return Classifier(
        24,
        stem=nn.Sequential(cbr(3, 8, 2), nn.MaxPool2d(2)),
        layer1=nn.Sequential(Res2(8, 16), Res2(16, 16)),
        layer2=nn.Sequential(Res2(16, 24, 2), Res2(24, 24)),
    )


class Tree(nn.Module):
    """Yu et al.: two blocks, and a root that aggregates both."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        self.tree1, self.tree2 = Block(inside, outside, 2), Block(outside, outside)
        self.root = cbr(2 * outside, outside, kernel=1)

    def forward(self, x: Tensor) -> Tensor:
        one = self.tree1(x)
        return self.root(torch.cat([self.tree2(one), one], 1))


def dla() -> nn.Module:
    return Classifier(
        32,
        base=cbr(3, 8), level1=cbr(8, 8, 2),
        level2=Tree(8, 16), level3=Tree(16, 24), level4=Tree(24, 32),
    )  # fmt: skip


class Csp(nn.Module):
    """Wang et al.: a strided convolution, then blocks on one half of the channels."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        half = outside // 2
        self.down = cbr(inside, outside, 2)
        self.one, self.two = cbr(outside, half, kernel=1), cbr(outside, half, kernel=1)
        self.blocks = nn.Sequential(Block(half, half), Block(half, half))
        self.last = cbr(outside, outside, kernel=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.down(x)
        return self.last(torch.cat([self.blocks(self.two(x)), self.one(x)], 1))


def csp_darknet() -> nn.Module:
    return Classifier(32, stem=cbr(3, 8), s1=Csp(8, 16), s2=Csp(16, 24), s3=Csp(24, 32))


class Attention(nn.Module):
    """A transformer's block on tokens; keys and values may be of a smaller map."""

    def __init__(self, width: int, reduction: int = 1) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.q, self.kv, self.proj = (
            nn.Linear(width, width), nn.Linear(width, 2 * width), nn.Linear(width, width),
        )  # fmt: skip
        self.sr = nn.Conv2d(width, width, reduction, reduction) if reduction > 1 else None
        self.fc1, self.fc2 = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        y = self.norm1(x)
        given = y
        if self.sr is not None:
            given = self.sr(y.transpose(1, 2).reshape(len(x), -1, *size)).flatten(2).transpose(1, 2)
        q, (k, v) = self.q(y), self.kv(given).chunk(2, -1)
        q, k, v = (t.unflatten(2, (2, -1)).transpose(1, 2) for t in (q, k, v))
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + self.proj(y)
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class Pvt(nn.Module):
    """Wang et al.: tokens of four resolutions, an embedding before each, smaller keys."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 8, 16, 24)
        self.embed = nn.ModuleList(
            nn.Conv2d(a, b, 2 if i else 4, 2 if i else 4)
            for i, (a, b) in enumerate(pairwise(widths))
        )
        self.norm = nn.ModuleList(nn.LayerNorm(width) for width in widths[1:])
        self.blocks = nn.ModuleList(
            nn.ModuleList([Attention(w, r), Attention(w, r)])
            for w, r in zip(widths[1:], (4, 2, 1), strict=True)
        )
        self.last, self.fc = nn.LayerNorm(24), nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        for i, (embed, norm, blocks) in enumerate(
            zip(self.embed, self.norm, self.blocks, strict=True)
        ):
            x = embed(x)
            size = (x.shape[2], x.shape[3])
            x = norm(x.flatten(2).transpose(1, 2))
            for block in blocks:
                x = block(x, size)
            if i < 2:
                x = x.transpose(1, 2).reshape(len(x), -1, *size)
        return self.fc(self.last(x).mean(1))


class Pit(nn.Module):
    """Heo et al.: tokens with a class token, pooled by a depthwise convolution."""

    def __init__(self, distilled: bool = False) -> None:
        super().__init__()
        tokens = 1 + distilled
        self.embed, self.position = nn.Conv2d(3, 8, 8, 8), nn.Parameter(torch.zeros(1, 8, 16, 16))
        self.token = nn.Parameter(torch.zeros(1, tokens, 8))
        self.one = nn.ModuleList([Attention(8), Attention(8)])
        self.two = nn.ModuleList([Attention(16), Attention(16)])
        self.pool, self.widen = nn.Conv2d(8, 16, 3, 2, 1, groups=8), nn.Linear(8, 16)
        self.norm, self.fc = nn.LayerNorm(16), nn.Linear(16, 5)
        self.more = nn.Linear(16, 5) if distilled else None

    def forward(self, x: Tensor) -> Tensor:
        x, token = self.embed(x) + self.position, self.token.expand(len(x), -1, -1)
        x, token = self.run(self.one, x, token)
        x, token = self.run(self.two, self.pool(x), self.widen(token))
        token = self.norm(token)
        if self.more is None:
            return self.fc(token[:, 0])
        return (self.fc(token[:, 0]) + self.more(token[:, 1])) / 2

    def run(self, blocks: nn.ModuleList, x: Tensor, token: Tensor) -> tuple[Tensor, Tensor]:
        size, count = (x.shape[2], x.shape[3]), token.shape[1]
        y = torch.cat([token, x.flatten(2).transpose(1, 2)], 1)
        for block in blocks:
            y = block(y, size)
        return y[:, count:].transpose(1, 2).reshape(len(y), -1, *size), y[:, :count]


class Subsample(nn.Module):
    """Graham et al.: queries of every second position ask all of them."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        self.q, self.kv, self.proj = (
            nn.Linear(inside, inside), nn.Linear(inside, 2 * inside), nn.Linear(inside, outside),
        )  # fmt: skip

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        k, v = self.kv(x).chunk(2, -1)
        q = self.q(x.view(len(x), *size, -1)[:, ::2, ::2].flatten(1, 2))
        return self.proj(F.hardswish(torch.softmax(q @ k.transpose(1, 2), -1) @ v))


class Levit(nn.Module):
    """Graham et al.: convolutions first, then attention that also lowers the resolution."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(cbr(3, 8, 2), cbr(8, 8, 2), cbr(8, 8, 2))
        self.one = nn.ModuleList([Attention(8), Attention(8)])
        self.step, self.two = Subsample(8, 16), nn.ModuleList([Attention(16), Attention(16)])
        self.fc = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        size = (x.shape[2], x.shape[3])
        x = x.flatten(2).transpose(1, 2)
        for block in self.one:
            x = block(x, size)
        x = self.step(x, size)
        for block in self.two:
            x = block(x, (size[0] // 2, size[1] // 2))
        return self.fc(x.mean(1))


class MobileVitBlock(nn.Module):
    """Mehta and Rastegari: a transformer over the pixels at one place of all patches."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.local, self.block, self.fold = (
            cbr(width, width),
            Attention(width),
            cbr(2 * width, width),
        )

    def forward(self, x: Tensor) -> Tensor:
        batch, width, height, across = x.shape
        y = self.local(x).reshape(batch, width, height // 2, 2, across // 2, 2)
        y = y.permute(0, 3, 5, 2, 4, 1).reshape(batch * 4, -1, width)
        y = self.block(y, (height // 2, across // 2))
        y = y.reshape(batch, 2, 2, height // 2, across // 2, width).permute(0, 5, 3, 1, 4, 2)
        return self.fold(torch.cat([x, y.reshape(batch, width, height, across)], 1))


def mobilevit() -> nn.Module:
    return Classifier(
        24,
        stem=cbr(3, 8, 2),
        s1=Block(8, 12),
        s2=nn.Sequential(Block(12, 16, 2), MobileVitBlock(16)),
        s3=nn.Sequential(Block(16, 24, 2), MobileVitBlock(24)),
    )


class Patches(nn.Module):
    """Attention over all positions of a map, between two pointwise convolutions (BoTNet)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.one, self.attend, self.two = cbr(width, 8, kernel=1), Attention(8), cbr(8, width, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.one(x)
        size = (y.shape[2], y.shape[3])
        y = self.attend(y.flatten(2).transpose(1, 2), size)
        return F.relu(x + self.two(y.transpose(1, 2).reshape(len(x), 8, *size)))


def botnet() -> nn.Module:
    return Classifier(
        24,
        stem=cbr(3, 8, 2),
        layer1=nn.Sequential(Block(8, 16, 2), Block(16, 16)),
        layer2=nn.Sequential(Block(16, 24, 2), Patches(24), Patches(24)),
    )


class Through(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)


def conv_mixer() -> nn.Module:
    """Trockman and Kolter: a plain list of depthwise residuals and pointwise convolutions."""

    def block() -> nn.Module:
        spatial = nn.Sequential(nn.Conv2d(8, 8, 5, 1, 2, groups=8), nn.GELU(), nn.BatchNorm2d(8))
        return nn.Sequential(Through(spatial), nn.Conv2d(8, 8, 1), nn.GELU(), nn.BatchNorm2d(8))

    stem = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.GELU(), nn.BatchNorm2d(8))
    return Classifier(8, stem=stem, blocks=nn.Sequential(block(), block(), block()))


def plain_stages() -> nn.Module:
    """MobileNetV4's first stages: a strided and a pointwise convolution in a list, no shortcut."""
    return Classifier(
        32,
        stem=cbr(3, 8, 2),
        s1=nn.Sequential(cbr(8, 16, 2), cbr(16, 12, kernel=1)),
        s2=nn.Sequential(cbr(12, 24, 2), cbr(24, 16, kernel=1)),
        s3=nn.Sequential(Block(16, 32, 2), Block(32, 32)),
    )


class Inception(nn.Module):
    """Szegedy et al.: four ways of different kernels, laid side by side."""

    def __init__(self, inside: int, width: int) -> None:
        super().__init__()
        self.one = cbr(inside, width, kernel=1)
        self.three = nn.Sequential(cbr(inside, width, kernel=1), cbr(width, width))
        self.five = nn.Sequential(cbr(inside, width, kernel=1), cbr(width, width, kernel=5))
        self.pooled = nn.Sequential(nn.MaxPool2d(3, 1, 1), cbr(inside, width, kernel=1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.one(x), self.three(x), self.five(x), self.pooled(x)], 1)


class Auxiliary(nn.Module):
    """GoogLeNet with the side classifier that it is trained with."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(cbr(3, 8, 2, 7), nn.MaxPool2d(2), cbr(8, 8))
        self.a1, self.a2 = Inception(8, 4), Inception(16, 5)
        self.b1, self.c1, self.pool = Inception(20, 6), Inception(24, 6), nn.MaxPool2d(2)
        self.aux = nn.Sequential(nn.AdaptiveAvgPool2d(4), cbr(24, 8, kernel=1), nn.Flatten())
        self.fc, self.score = nn.Linear(24, 5), nn.Linear(128, 5)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.b1(self.pool(self.a2(self.a1(self.stem(x)))))
        beside = self.score(self.aux(x))
        return self.fc(self.c1(self.pool(x)).mean((2, 3))), beside


class Exits(nn.Module):
    """Teerapittayanon et al.: a classifier behind every stage."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.s1 = cbr(3, 8, 2), nn.Sequential(Block(8, 8), Block(8, 8))
        self.s2 = nn.Sequential(Block(8, 16, 2), Block(16, 16))
        self.s3 = nn.Sequential(Block(16, 24, 2), Block(24, 24))
        self.fc = nn.ModuleList(nn.Linear(width, 5) for width in (8, 16, 24))

    def forward(self, x: Tensor) -> list[Tensor]:
        x, made = self.stem(x), []
        for stage, fc in zip((self.s1, self.s2, self.s3), self.fc, strict=True):
            x = stage(x)
            made.append(fc(x.mean((2, 3))))
        return made


class TwoHeads(nn.Module):
    """One backbone, two answers; each has a convolution of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.s1 = cbr(3, 8, 2), nn.Sequential(Block(8, 8), Block(8, 8))
        self.s2 = nn.Sequential(Block(8, 16, 2), Block(16, 16))
        self.age, self.sex = cbr(16, 8, kernel=1), cbr(16, 8, kernel=1)
        self.fc1, self.fc2 = nn.Linear(8, 1), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.s2(self.s1(self.stem(x)))
        return {
            "age": self.fc1(self.age(x).mean((2, 3))),
            "sex": self.fc2(self.sex(x).mean((2, 3))),
        }


class Asked(nn.Module):
    """SigLIP's head: a learned query asks the last tokens, and its answer is scored."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.position = nn.Conv2d(3, 8, 16, 16), nn.Parameter(torch.zeros(1, 64, 8))
        self.blocks = nn.ModuleList([Attention(8), Attention(8)])
        self.norm, self.latent = nn.LayerNorm(8), nn.Parameter(torch.randn(1, 1, 8))
        self.q, self.kv, self.fc = nn.Linear(8, 8), nn.Linear(8, 16), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2) + self.position
        for block in self.blocks:
            x = block(x, (8, 8))
        k, v = self.kv(self.norm(x)).chunk(2, -1)
        y = F.scaled_dot_product_attention(self.q(self.latent).expand(len(x), -1, -1), k, v)
        return self.fc(y[:, 0])


class Siamese(nn.Module):
    """Bromley et al.: one encoder for both images, and a layer on how far they differ."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            cbr(3, 8, 2), Block(8, 8), Block(8, 16, 2), Block(16, 16), Block(16, 24, 2)
        )
        self.fc = nn.Linear(24, 1)

    def forward(self, one: Tensor, other: Tensor) -> Tensor:
        a, b = (self.encoder(x).mean((2, 3)) for x in (one, other))
        return self.fc((a - b).abs())


class CycleGenerator(nn.Module):
    """Zhu et al.: two steps down, residual blocks, two steps up; a stem as long as its end."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(
            nn.ReflectionPad2d(3), nn.Conv2d(3, 8, 7), nn.InstanceNorm2d(8), nn.ReLU(),
            nn.Conv2d(8, 16, 3, 2, 1), nn.InstanceNorm2d(16), nn.ReLU(),
            nn.Conv2d(16, 24, 3, 2, 1), nn.InstanceNorm2d(24), nn.ReLU(),
        )  # fmt: skip
        self.blocks = nn.Sequential(Block(24, 24), Block(24, 24), Block(24, 24))
        self.up = nn.Sequential(
            nn.ConvTranspose2d(24, 16, 3, 2, 1, 1), nn.InstanceNorm2d(16), nn.ReLU(),
            nn.ConvTranspose2d(16, 8, 3, 2, 1, 1), nn.InstanceNorm2d(8), nn.ReLU(),
            nn.ReflectionPad2d(3), nn.Conv2d(8, 3, 7), nn.Tanh(),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.up(self.blocks(self.down(x)))
