"""Networks of signals (N, C, L), some with twins of images, whose layers have one axis more."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CONV = {1: nn.Conv1d, 2: nn.Conv2d}
NORM = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d}
POOL = {1: nn.MaxPool1d, 2: nn.MaxPool2d}
AXES = {1: (2,), 2: (2, 3)}


def conv(rank: int, inside: int, outside: int, kernel: int = 3, stride: int = 1) -> nn.Module:
    return CONV[rank](inside, outside, kernel, stride, kernel // 2, bias=False)


def cbr(rank: int, inside: int, outside: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    made = conv(rank, inside, outside, kernel, stride)
    return nn.Sequential(made, NORM[rank](outside), nn.ReLU())


class Block(nn.Module):
    """The residual block of networks for electrocardiograms: wide kernels."""

    def __init__(self, rank: int, inside: int, outside: int, stride: int = 1) -> None:
        super().__init__()
        self.one = cbr(rank, inside, outside, 7, stride)
        self.two = nn.Sequential(conv(rank, outside, outside, 7), NORM[rank](outside))
        self.short = nn.Sequential()
        if stride > 1 or inside != outside:
            made = CONV[rank](inside, outside, 1, stride, bias=False)
            self.short = nn.Sequential(made, NORM[rank](outside))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.two(self.one(x)) + self.short(x))


class ResNet(nn.Module):
    """After He et al., as it is used on leads of an electrocardiogram."""

    def __init__(self, rank: int = 1, width: int = 8) -> None:
        super().__init__()
        self.axes = AXES[rank]
        self.stem = nn.Sequential(*cbr(rank, 3, width, 15, 2), POOL[rank](3, 2, 1))
        self.layer1 = nn.Sequential(Block(rank, width, width), Block(rank, width, width))
        self.layer2 = nn.Sequential(
            Block(rank, width, 2 * width, 2), Block(rank, 2 * width, 2 * width)
        )
        self.layer3 = nn.Sequential(
            Block(rank, 2 * width, 3 * width, 2), Block(rank, 3 * width, 3 * width)
        )
        self.fc = nn.Linear(3 * width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer3(self.layer2(self.layer1(self.stem(x))))
        return self.fc(x.mean(self.axes))


class M5(nn.Module):
    """Dai et al.: a waveform, a first kernel of 80, and a pooling by 4 behind each convolution."""

    def __init__(self, rank: int = 1, width: int = 8) -> None:
        super().__init__()
        self.axes = AXES[rank]
        self.conv1, self.bn1 = conv(rank, 3, width, 80, 4), NORM[rank](width)
        self.conv2, self.bn2 = conv(rank, width, width), NORM[rank](width)
        self.conv3, self.bn3 = conv(rank, width, 2 * width), NORM[rank](2 * width)
        self.pool1, self.pool2 = POOL[rank](4), POOL[rank](4)
        self.fc = nn.Linear(2 * width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool1(F.relu(self.bn1(self.conv1(x))))
        x = self.pool2(F.relu(self.bn2(self.conv2(x))))
        x = F.relu(self.bn3(self.conv3(x)))
        return self.fc(x.mean(self.axes))


class Gate(nn.Module):
    """The squeeze-and-excitation that ECAPA's blocks end with."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.down, self.up = nn.Conv1d(width, 4, 1), nn.Conv1d(4, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.up(F.relu(self.down(x.mean(2, keepdim=True)))).sigmoid()


class Res2(nn.Module):
    """A dilated Res2Net block: each part of the channels is added to the next one's input."""

    def __init__(self, width: int, spread: int, scale: int = 4) -> None:
        super().__init__()
        part = width // scale
        self.enter, self.leave = cbr(1, width, width, 1), cbr(1, width, width, 1)
        self.steps = nn.ModuleList(
            nn.Conv1d(part, part, 3, padding=spread, dilation=spread) for _ in range(scale - 1)
        )
        self.gate = Gate(width)

    def forward(self, x: Tensor) -> Tensor:
        parts = list(self.enter(x).chunk(len(self.steps) + 1, 1))
        for i, step in enumerate(self.steps, 1):
            given = parts[i] if i == 1 else parts[i] + parts[i - 1]
            parts[i] = F.relu(step(given))
        return x + self.gate(self.leave(torch.cat(parts, 1)))


class Ecapa(nn.Module):
    """Desplanques et al.: speakers from frames; all blocks are joined, then pooled by attention."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv1d(10, width, 5, padding=2), nn.ReLU(), nn.BatchNorm1d(width)
        )
        self.blocks = nn.ModuleList(Res2(width, spread) for spread in (2, 3, 4))
        self.join = nn.Sequential(nn.Conv1d(3 * width, 24, 1), nn.ReLU())
        self.attend = nn.Sequential(nn.Conv1d(24, 8, 1), nn.Tanh(), nn.Conv1d(8, 24, 1))
        self.bn, self.fc = nn.BatchNorm1d(48), nn.Linear(48, 7)

    def forward(self, x: Tensor) -> Tensor:
        x, found = self.stem(x), []
        for block in self.blocks:
            x = block(x)
            found.append(x)
        x = self.join(torch.cat(found, 1))
        share = self.attend(x).softmax(2)
        mean = (x * share).sum(2)
        spread = ((x * x * share).sum(2) - mean * mean).clamp(min=1e-4).sqrt()
        return self.fc(self.bn(torch.cat([mean, spread], 1)))


class Causal(nn.Module):
    """A convolution that sees the past alone."""

    def __init__(self, inside: int, outside: int, spread: int) -> None:
        super().__init__()
        self.spread = spread
        self.conv = nn.Conv1d(inside, outside, 2, dilation=spread)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (self.spread, 0)))


class Gated(nn.Module):
    """WaveNet's block: half of the channels gate the others; one way on, and one to the output."""

    def __init__(self, width: int, spread: int, last: bool) -> None:
        super().__init__()
        self.dilated = Causal(width, 2 * width, spread)
        self.on = None if last else nn.Conv1d(width, width, 1)
        self.out = nn.Conv1d(width, 12, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        value, gate = self.dilated(x).chunk(2, 1)
        y = value.tanh() * gate.sigmoid()
        return (x if self.on is None else x + self.on(y)), self.out(y)


class WaveNet(nn.Module):
    """Van den Oord et al.: a dilated stack; the outputs of all blocks are added up."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.front = Causal(3, width, 1)
        self.blocks = nn.ModuleList(Gated(width, 2**i, last=i == 3) for i in range(4))
        self.post = nn.Sequential(nn.ReLU(), nn.Conv1d(12, 12, 1), nn.ReLU(), nn.Conv1d(12, 5, 1))

    def forward(self, x: Tensor) -> Tensor:
        x, total = self.front(x), None
        for block in self.blocks:
            x, out = block(x)
            total = out if total is None else total + out
        return self.post(total)


class Cropped(nn.Module):
    """Bai et al.: a temporal block, whose convolutions pad both sides and crop the right one."""

    def __init__(self, inside: int, outside: int, spread: int) -> None:
        super().__init__()
        self.spread = spread
        self.conv1 = nn.Conv1d(inside, outside, 3, padding=2 * spread, dilation=spread)
        self.conv2 = nn.Conv1d(outside, outside, 3, padding=2 * spread, dilation=spread)
        self.down = nn.Conv1d(inside, outside, 1) if inside != outside else None

    def forward(self, x: Tensor) -> Tensor:
        crop = 2 * self.spread
        y = F.relu(self.conv1(x)[:, :, :-crop])
        y = F.relu(self.conv2(y)[:, :, :-crop])
        return F.relu(y + (x if self.down is None else self.down(x)))


class Tcn(nn.Module):
    """Three temporal blocks; the last position decides."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(Cropped(3, 8, 1), Cropped(8, 8, 2), Cropped(8, 8, 4))
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.blocks(x)[:, :, -1])


class UNet(nn.Module):
    """Ronneberger et al., for the phases of a heartbeat."""

    def __init__(self, rank: int = 1) -> None:
        super().__init__()

        def twice(inside: int, outside: int) -> nn.Sequential:
            return nn.Sequential(cbr(rank, inside, outside), cbr(rank, outside, outside))

        self.inc, self.down1, self.down2 = twice(3, 8), twice(8, 16), twice(16, 24)
        self.pool = POOL[rank](2)
        self.up2, self.up1 = twice(24 + 16, 16), twice(16 + 8, 8)
        self.out = CONV[rank](8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.inc(x)
        b = self.down1(self.pool(a))
        c = self.down2(self.pool(b))
        b = self.up2(torch.cat([b, F.interpolate(c, size=b.shape[2:])], 1))
        a = self.up1(torch.cat([a, F.interpolate(b, size=a.shape[2:])], 1))
        return self.out(a)


class EEGNet(nn.Module):
    """Lawhern et al.: electrodes x time as an image of one channel; filters along each in turn."""

    def __init__(self, electrodes: int = 14) -> None:
        super().__init__()
        self.temporal = nn.Sequential(
            nn.Conv2d(1, 8, (1, 33), padding=(0, 16), bias=False), nn.BatchNorm2d(8)
        )
        self.spatial = nn.Sequential(
            nn.Conv2d(8, 16, (electrodes, 1), groups=8, bias=False), nn.BatchNorm2d(16), nn.ELU()
        )
        self.pool1 = nn.AvgPool2d((1, 4))
        self.separable = nn.Sequential(
            nn.Conv2d(16, 16, (1, 17), padding=(0, 8), groups=16, bias=False),
            nn.Conv2d(16, 16, 1, bias=False),
            nn.BatchNorm2d(16),
            nn.ELU(),
        )
        self.pool2 = nn.AvgPool2d((1, 8))
        self.fc = nn.Linear(16 * 8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool1(self.spatial(self.temporal(x)))
        return self.fc(self.pool2(self.separable(x)).flatten(1))


class Layer(nn.Module):
    """A transformer's layer on tokens (N, L, C)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm1(x)).chunk(3, 2)
        x = x + self.proj(F.scaled_dot_product_attention(q, k, v))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class Transformer(nn.Module):
    """After wav2vec 2: convolutions shorten the waveform, then tokens with a class token ahead."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.extract = nn.Sequential(
            nn.Conv1d(3, width, 10, 5), nn.GELU(), nn.Conv1d(width, width, 3, 2), nn.GELU()
        )
        self.position = nn.Conv1d(width, width, 5, padding=2, groups=4)
        self.start = nn.Parameter(torch.zeros(1, 1, width))
        self.layers = nn.ModuleList([Layer(width), Layer(width)])
        self.norm, self.fc = nn.LayerNorm(width), nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.extract(x).transpose(1, 2)
        x = x + F.gelu(self.position(x.transpose(1, 2))).transpose(1, 2)
        x = torch.cat([self.start.expand(len(x), -1, -1), x], 1)
        for layer in self.layers:
            x = layer(x)
        return self.fc(self.norm(x).mean(1))


class Conformer(nn.Module):
    """Gulati et al.: the module of convolutions between the transposes of a layer of tokens."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.enter = nn.Linear(10, width)
        self.norm = nn.LayerNorm(width)
        self.point1 = nn.Conv1d(width, 2 * width, 1)
        self.depth = nn.Conv1d(width, width, 7, padding=3, groups=width)
        self.bn, self.act = nn.BatchNorm1d(width), nn.SiLU()
        self.point2 = nn.Conv1d(width, width, 1)
        self.fc = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x.transpose(1, 2))
        y = F.glu(self.point1(self.norm(x).transpose(1, 2)), 1)
        y = self.point2(self.act(self.bn(self.depth(y))))
        return self.fc((x + y.transpose(1, 2)).mean(1))


class Efficient(nn.Module):
    """An image network with ECA, whose convolution slides along channels: no signal is in it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.along = nn.Conv2d(3, 8, 3, padding=1), nn.Conv1d(1, 1, 3, padding=1)
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x).relu()
        gate = self.along(x.mean((2, 3)).unsqueeze(1)).sigmoid()
        return self.fc((x * gate.transpose(1, 2).unsqueeze(3)).mean((2, 3)))


class Mixer(nn.Module):
    """An MLP-Mixer whose layer across the patches is a convolution of kernel 1."""

    def __init__(self, width: int = 8, patches: int = 12) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, width, 4, 4)
        self.norm = nn.LayerNorm(width)
        self.across1, self.across2 = nn.Conv1d(patches, 20, 1), nn.Conv1d(20, patches, 1)
        self.fc = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2)
        x = x + self.across2(F.gelu(self.across1(self.norm(x))))
        return self.fc(x.mean(1))
