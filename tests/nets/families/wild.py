"""Further classifiers, after repositories that many people start from."""

from __future__ import annotations

import warnings

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.nets.families.parts import Block, Classifier, cbr, twice


class WindowMixer(nn.Module):
    """Liu et al. (Swin-MLP): the positions of a window are mixed by a convolution that takes them
    for channels, in groups, one a head; then an MLP.
    """

    def __init__(self, width: int, size: int, heads: int, window: int = 4) -> None:
        super().__init__()
        self.size, self.heads, self.window = size, heads, window
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        places = heads * window * window
        self.mix = nn.Conv1d(places, places, 1, groups=heads)
        self.fc1, self.fc2 = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, _, c = x.shape
        s, w, many = self.size, self.window, self.size // self.window
        y = self.norm1(x).view(n, many, w, many, w, c).permute(0, 1, 3, 2, 4, 5)
        y = y.reshape(-1, w * w, self.heads, c // self.heads).transpose(1, 2)
        y = self.mix(y.reshape(-1, self.heads * w * w, c // self.heads))
        y = y.view(-1, self.heads, w * w, c // self.heads).transpose(1, 2)
        y = y.reshape(n, many, many, w, w, c).permute(0, 1, 3, 2, 4, 5)
        x = x + y.reshape(n, s * s, c)
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class Merging(nn.Module):
    """Four neighbours beside each other, and a linear layer."""

    def __init__(self, width: int, size: int) -> None:
        super().__init__()
        self.size, self.norm = size, nn.LayerNorm(4 * width)
        self.reduce = nn.Linear(4 * width, 2 * width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        half = self.size // 2
        x = x.view(len(x), half, 2, half, 2, -1).permute(0, 1, 3, 2, 4, 5)
        return self.reduce(self.norm(x.reshape(len(x), half * half, -1)))


class SwinMlp(nn.Module):
    """Tokens that are turned channels first before the pooling, as the official Swin does."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 12, 4, 4)
        self.s1 = nn.Sequential(WindowMixer(12, 16, 3), WindowMixer(12, 16, 3))
        self.merge = Merging(12, 16)
        self.s2 = nn.Sequential(WindowMixer(24, 8, 6), WindowMixer(24, 8, 6))
        self.norm = nn.LayerNorm(24)
        self.fc = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = self.norm(self.s2(self.merge(self.s1(x))))
        return self.fc(F.adaptive_avg_pool1d(x.transpose(1, 2), 1).flatten(1))


class Spectrogram(nn.Module):
    """Kong et al. (PANNs): a waveform (N, T), its spectrogram, bands, a norm over these, then an
    image of one channel.
    """

    def __init__(self) -> None:
        super().__init__()
        self.frames = nn.Conv1d(1, 33, 64, 32, 32, bias=False)
        self.bands = nn.Parameter(torch.rand(33, 16))
        self.bn0 = nn.BatchNorm2d(16)
        self.block1, self.block2, self.block3 = twice(1, 8), twice(8, 16), twice(16, 24)
        self.fc = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        power = self.frames(x[:, None])[:, None].transpose(2, 3).pow(2)
        x = torch.log(torch.clamp(power @ self.bands, min=1e-6))  # (N, 1, frames, bands)
        x = self.bn0(x.transpose(1, 3)).transpose(1, 3)
        x = F.avg_pool2d(self.block1(x), 2)
        x = F.dropout(x, 0.2, self.training)
        x = self.block3(F.avg_pool2d(self.block2(x), 2))
        x = x.mean(3)
        return self.fc(x.max(2)[0] + x.mean(2))


class Waveform(nn.Module):
    """Dai et al. (M11 of PANNs): convolutions on a waveform (N, T)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv0, self.bn0 = nn.Conv1d(1, 8, 20, 4), nn.BatchNorm1d(8)
        self.s1 = nn.Sequential(nn.Conv1d(8, 8, 3, padding=1), nn.BatchNorm1d(8), nn.ReLU())
        self.s2 = nn.Sequential(nn.Conv1d(8, 16, 3, padding=1), nn.BatchNorm1d(16), nn.ReLU())
        self.fc = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn0(self.conv0(x[:, None])))
        x = self.s2(F.max_pool1d(self.s1(F.max_pool1d(x, 4)), 4))
        return self.fc(x.mean(2))


class MiddleLevels(nn.Module):
    """Yu et al. (ResNet-mid): all blocks of the last stage are pooled and classified together."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.s1 = cbr(3, 8, 2), nn.Sequential(Block(8, 8), Block(8, 8))
        self.s2 = nn.Sequential(Block(8, 16, 2), Block(16, 16), Block(16, 16))
        self.fuse, self.fc = nn.Linear(32, 16), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        one = self.s2[0](self.s1(self.stem(x)))
        two = self.s2[1](one)
        three = self.s2[2](two)
        mean = [y.mean((2, 3)) for y in (one, two, three)]
        return self.fc(torch.cat([self.fuse(torch.cat(mean[:2], 1)), mean[2]], 1))


class Aligned(nn.Module):
    """Qi et al. (PointNet): a small network makes a matrix that turns the points, and is given
    beside the scores.
    """

    def __init__(self) -> None:
        super().__init__()
        self.turn = nn.Sequential(nn.Conv1d(3, 8, 1), nn.ReLU(), nn.Conv1d(8, 16, 1), nn.ReLU())
        self.matrix = nn.Linear(16, 9)
        self.one = nn.Sequential(nn.Conv1d(3, 8, 1), nn.BatchNorm1d(8), nn.ReLU())
        self.two = nn.Sequential(nn.Conv1d(8, 24, 1), nn.BatchNorm1d(24))
        self.fc = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        turn = self.matrix(self.turn(x).max(2)[0]).view(-1, 3, 3)
        x = torch.bmm(x.transpose(2, 1), turn).transpose(2, 1)
        return self.fc(self.two(self.one(x)).max(2)[0]), turn


class ChannelsLastTwice(nn.Module):
    """Images with the channels last, as cameras and games give them; predictions of two stacks in
    one value (Newell et al.).
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.s1 = cbr(3, 8, 2), nn.Sequential(Block(8, 8), Block(8, 8))
        self.s2 = nn.Sequential(Block(8, 16, 2), Block(16, 16))
        self.more = nn.Sequential(Block(16, 16), Block(16, 16))
        self.one, self.two = nn.Conv2d(16, 4, 1), nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.s2(self.s1(self.stem(x.permute(0, 3, 1, 2))))
        return torch.stack([self.one(x), self.two(self.more(x))], 1)


class PatchTransformer(nn.Module):
    """Mehta & Rastegari (MobileViT): pixels of the same place in all patches attend to each other;
    written with an axis of places and one of patches.
    """

    def __init__(self, width: int, inside: int) -> None:
        super().__init__()
        self.enter = nn.Sequential(cbr(width, width), cbr(width, inside, kernel=1))
        self.norm1, self.norm2 = nn.LayerNorm(inside), nn.LayerNorm(inside)
        self.qkv, self.proj = nn.Linear(inside, 3 * inside), nn.Linear(inside, inside)
        self.fc1, self.fc2 = nn.Linear(inside, 2 * inside), nn.Linear(2 * inside, inside)
        self.leave, self.fuse = cbr(inside, width, kernel=1), cbr(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.enter(x)
        n, c, h, w = y.shape
        y = y.reshape(n, c, h // 2, 2, w // 2, 2).permute(0, 3, 5, 2, 4, 1).reshape(n, 4, -1, c)
        q, k, v = (
            t.unflatten(3, (2, -1)).transpose(2, 3) for t in self.qkv(self.norm1(y)).chunk(3, -1)
        )
        scores = torch.matmul(q, k.transpose(-1, -2)).softmax(-1)
        y = y + self.proj(torch.matmul(scores, v).transpose(2, 3).flatten(3))
        y = y + self.fc2(F.silu(self.fc1(self.norm2(y))))
        y = y.reshape(n, 2, 2, h // 2, w // 2, c).permute(0, 5, 3, 1, 4, 2).reshape(n, c, h, w)
        return self.fuse(torch.cat([self.leave(y), x], 1))


def mobilevit_of_places() -> nn.Module:
    return Classifier(
        24,
        stem=cbr(3, 8, 2),
        s1=nn.Sequential(Block(8, 8), Block(8, 16, 2), Block(16, 16)),
        s2=nn.Sequential(Block(16, 16, 2), PatchTransformer(16, 20)),
        s3=nn.Sequential(Block(16, 24, 2), PatchTransformer(24, 28)),
    )


class ScriptedBlock(nn.Module):
    """A block as it stands in a script: what is made inside is nobody's site."""

    def __init__(self, inside: int, outside: int, stride: int = 1) -> None:
        super().__init__()
        self.one = nn.Conv2d(inside, outside, 3, stride, 1)
        self.two = nn.Conv2d(outside, outside, 3, 1, 1)
        self.short = nn.Conv2d(inside, outside, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.two(torch.relu(self.one(x))) + self.short(x))


def scripted_stages() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch.jit.script is on its way out
        blocks = [torch.jit.script(ScriptedBlock(*given))
                  for given in ((8, 8), (8, 8), (8, 16, 2), (16, 16), (16, 24, 2))]  # fmt: skip
    return Classifier(
        24,
        stem=cbr(3, 8, 2),
        s1=nn.Sequential(*blocks[:2]),
        s2=nn.Sequential(*blocks[2:4]),
        s3=blocks[4],
    )


class PoolMixer(nn.Module):
    """Li et al. (EfficientFormer): what a pooling changes is added, scaled and without a norm; then
    pointwise convolutions.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.pool = nn.AvgPool2d(3, 1, 1, count_include_pad=False)
        self.fc1, self.fc2 = cbr(width, 2 * width, kernel=1), nn.Conv2d(2 * width, width, 1)
        self.scale1 = nn.Parameter(torch.full((width, 1, 1), 1e-5))
        self.scale2 = nn.Parameter(torch.full((width, 1, 1), 1e-5))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.scale1 * (self.pool(x) - x)
        return x + self.scale2 * self.fc2(self.fc1(x))


class LocalMixer(nn.Module):
    """Li et al. (UniFormer): a positional convolution; then a norm, and three convolutions without
    a bend between them.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.position = nn.Conv2d(width, width, 3, 1, 1, groups=width)
        self.norm, self.enter = nn.BatchNorm2d(width), nn.Conv2d(width, width, 1)
        self.around = nn.Conv2d(width, width, 5, 1, 2, groups=width)
        self.leave = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.position(x)
        return x + self.leave(self.around(self.enter(self.norm(x))))


class BesideValues(nn.Module):
    """Attention with a convolution of the values beside it (LePE, local interaction): it is part of
    the attention, and no block of its own.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.qkv = nn.BatchNorm2d(width), nn.Conv2d(width, 3 * width, 1)
        self.local = nn.Conv2d(width, width, 3, 1, 1, groups=width)
        self.proj = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(x)).chunk(3, 1)
        scores = (q.flatten(2).transpose(1, 2) @ k.flatten(2)).softmax(-1)
        y = (v.flatten(2) @ scores.transpose(1, 2)).view_as(v)
        return x + self.proj(y + self.local(v))


def mixers_in_a_row() -> nn.Module:
    return Classifier(
        16,
        stem=cbr(3, 8, 2),
        s1=nn.Sequential(PoolMixer(8), PoolMixer(8)),
        down1=cbr(8, 12, 2),
        s2=nn.Sequential(LocalMixer(12), LocalMixer(12)),
        down2=cbr(12, 16, 2),
        s3=nn.Sequential(BesideValues(16), BesideValues(16)),
    )


class Factored(nn.Module):
    """Tran et al. in a popular port: space, then time, in the shortcut as well."""

    def __init__(self, inside: int, outside: int, stride: int = 1) -> None:
        super().__init__()
        self.one = self.step(inside, outside, 3, stride)
        self.two = self.step(outside, outside, 3, 1)
        self.norm = nn.BatchNorm3d(outside)
        self.short = nn.Sequential()
        if stride > 1:
            self.short = nn.Sequential(
                *self.step(inside, outside, 1, stride), nn.BatchNorm3d(outside)
            )

    def step(self, inside: int, outside: int, kernel: int, stride: int) -> nn.Sequential:
        k, s = kernel, stride
        return nn.Sequential(
            nn.Conv3d(inside, outside, (1, k, k), (1, s, s), (0, k // 2, k // 2), bias=False),
            nn.BatchNorm3d(outside), nn.ReLU(),
            nn.Conv3d(outside, outside, (k, 1, 1), (s, 1, 1), (k // 2, 0, 0), bias=False),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.short(x) + self.norm(self.two(F.relu(self.one(x)))))


class FactoredClips(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv3d(3, 8, 3, (1, 2, 2), 1)
        self.s1 = nn.Sequential(Factored(8, 8), Factored(8, 8))
        self.s2 = nn.Sequential(Factored(8, 16, 2), Factored(16, 16))
        self.fc = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.s2(self.s1(F.relu(self.stem(x)))).mean((2, 3, 4)))


class Flow(nn.Module):
    """Chollet: blocks that step down, written out in one forward, then a list of others."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = cbr(3, 8, 2)
        self.one, self.short1 = self.branch(8, 12), nn.Conv2d(8, 12, 1, 2)
        self.two, self.short2 = self.branch(12, 16), nn.Conv2d(12, 16, 1, 2)

    def branch(self, inside: int, outside: int) -> nn.Sequential:
        return nn.Sequential(cbr(inside, outside), cbr(outside, outside), nn.MaxPool2d(3, 2, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        x = self.one(x) + self.short1(x)
        return self.two(x) + self.short2(x)


def xception_flows() -> nn.Module:
    return Classifier(16, entry=Flow(), middle=nn.Sequential(Block(16, 16), Block(16, 16)))


class ListedLayer(nn.Sequential):
    """A dense layer that is a list, and joins what it makes to what it was given."""

    def __init__(self, inside: int) -> None:
        super().__init__(
            nn.BatchNorm2d(inside), nn.ReLU(), nn.Conv2d(inside, 12, 1, bias=False),
            nn.BatchNorm2d(12), nn.ReLU(), nn.Conv2d(12, 4, 3, 1, 1, bias=False),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, super().forward(x)], 1)


class ListedDense(nn.Sequential):
    def __init__(self, inside: int, layers: int) -> None:
        super().__init__(*(ListedLayer(inside + 4 * i) for i in range(layers)))


def densenet_of_lists() -> nn.Module:
    between = [nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 8, 1), nn.AvgPool2d(2)]
    return Classifier(
        20,
        features=nn.Sequential(
            nn.Conv2d(3, 8, 7, 2, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(3, 2, 1),
            ListedDense(8, 2), nn.Sequential(*between), ListedDense(8, 3), nn.BatchNorm2d(20),
        ),
    )  # fmt: skip


class Frames(nn.Module):
    """Wang et al. (temporal segments), Su et al. (views of an object): frames stand in the batch,
    some channels are shifted between them (Lin et al.), and what each says is put together.
    """

    def __init__(self, frames: int = 4) -> None:
        super().__init__()
        self.frames = frames
        self.stem, self.s1 = cbr(3, 8, 2), nn.Sequential(Block(8, 8), Block(8, 8))
        self.s2 = nn.Sequential(Block(8, 16, 2), Block(16, 16))
        self.fc = nn.Linear(16, 5)

    def shifted(self, x: Tensor) -> Tensor:
        y = x.view(-1, self.frames, *x.shape[1:])
        moved = torch.cat([y[:, 1:, :2], y[:, :1, :2]], 1)
        return torch.cat([moved, y[:, :, 2:]], 2).view(x.shape)

    def forward(self, x: Tensor) -> Tensor:
        x = x.view(-1, 3, *x.shape[-2:])
        x = self.s2(self.shifted(self.s1(self.stem(x))))
        return self.fc(x.mean((2, 3))).view(-1, self.frames, 5).mean(1)
