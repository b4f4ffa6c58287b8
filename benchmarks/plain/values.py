"""What looks at two values: fusions of an addition, masks of a block's input, gates of a skip."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class CMPESE(nn.Module):
    def __init__(self, channels: int, size: tuple[int, int]) -> None:
        super().__init__()
        m = channels // 16
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.of_branch = nn.Linear(channels, m, bias=False)
        self.of_shortcut = nn.Linear(channels, m, bias=False)
        self.fc2 = nn.Linear(2 * m, channels, bias=False)

    def forward(self, branch: Tensor, shortcut: Tensor) -> Tensor:
        n, c = branch.shape[:2]
        a = self.of_branch(self.pool(branch).view(n, c))
        b = self.of_shortcut(self.pool(shortcut).view(n, c))
        gate = torch.sigmoid(self.fc2(F.relu(torch.cat([a, b], dim=1))))
        return branch * gate.view(n, c, 1, 1) + shortcut


def context(channels: int, m: int, *first: nn.Module) -> nn.Sequential:
    return nn.Sequential(
        *first,
        *(nn.Conv2d(channels, m, 1), nn.BatchNorm2d(m), nn.ReLU(inplace=True)),
        *(nn.Conv2d(m, channels, 1), nn.BatchNorm2d(channels)),
    )


class AFF(nn.Module):
    def __init__(self, channels: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.near = context(channels, channels // 16)
        self.whole = context(channels, channels // 16, nn.AdaptiveAvgPool2d(1))
        self.sigmoid = nn.Sigmoid()

    def forward(self, branch: Tensor, shortcut: Tensor) -> Tensor:
        total = branch + shortcut
        weight = self.sigmoid(self.near(total) + self.whole(total))
        return 2 * branch * weight + 2 * shortcut * (1 - weight)


class IAFF(nn.Module):
    def __init__(self, channels: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.near = context(channels, channels // 16)
        self.whole = context(channels, channels // 16, nn.AdaptiveAvgPool2d(1))
        self.near2 = context(channels, channels // 16)
        self.whole2 = context(channels, channels // 16, nn.AdaptiveAvgPool2d(1))
        self.sigmoid = nn.Sigmoid()

    def forward(self, branch: Tensor, shortcut: Tensor) -> Tensor:
        total = branch + shortcut
        weight = self.sigmoid(self.near(total) + self.whole(total))
        mixed = branch * weight + shortcut * (1 - weight)
        weight = self.sigmoid(self.near2(mixed) + self.whole2(mixed))
        return branch * weight + shortcut * (1 - weight)


class Unit(nn.Module):
    """Pre-activation residual bottleneck that keeps its channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        w = channels // 4
        self.norm1, self.conv1 = nn.BatchNorm2d(channels), nn.Conv2d(channels, w, 1, bias=False)
        self.norm2, self.conv2 = nn.BatchNorm2d(w), nn.Conv2d(w, w, 3, padding=1, bias=False)
        self.norm3, self.conv3 = nn.BatchNorm2d(w), nn.Conv2d(w, channels, 1, bias=False)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv1(self.relu(self.norm1(x)))
        out = self.conv2(self.relu(self.norm2(out)))
        return self.conv3(self.relu(self.norm3(out))) + x


def resized(z: Tensor, like: Tensor) -> Tensor:
    height, width = like.shape[2:]
    return nn.UpsamplingBilinear2d((height, width))(z)


class RAN(nn.Module):
    """The mask of a block's input on its output, as deep as the authors have it at that size."""

    def __init__(self, channels: int, size: tuple[int, int]) -> None:
        super().__init__()
        depth = sum(size[0] >= side for side in (14, 28, 56))

        def units(number: int) -> nn.ModuleList:
            return nn.ModuleList(Unit(channels) for _ in range(number))

        self.pool = nn.MaxPool2d(3, 2, 1)
        self.down, self.bottom = units(depth), units(min(depth, 1))
        self.skip, self.up = units(max(depth - 1, 0)), units(max(depth - 1, 0))
        self.mask = nn.Sequential(
            *(nn.BatchNorm2d(channels), nn.ReLU(inplace=True)),
            nn.Conv2d(channels, channels, 1, bias=False),
            *(nn.BatchNorm2d(channels), nn.ReLU(inplace=True)),
            *(nn.Conv2d(channels, channels, 1, bias=False), nn.Sigmoid()),
        )

    def forward(self, x: Tensor, source: Tensor) -> Tensor:
        z, passed = source, []
        for unit in self.down:
            z = unit(self.pool(z))
            passed.append(z)
        for unit in self.bottom:
            z = unit(z)
        for skip, up, before in zip(self.skip, self.up, reversed(passed[:-1]), strict=True):
            z = up(resized(z, before) + skip(before))
        if passed:
            z = resized(z, x)
        return (1 + self.mask(z)) * x


class AttentionGate(nn.Module):
    """In two dimensions what the authors have in three; the signal is of half the resolution."""

    def __init__(self, channels: int, size: tuple[int, int]) -> None:
        super().__init__()
        m = channels // 2
        self.theta = nn.Conv2d(channels, m, 2, 2, bias=False)
        self.phi = nn.Conv2d(channels, m, 1)
        self.psi = nn.Conv2d(m, 1, 1)
        self.transform = nn.Sequential(nn.Conv2d(channels, channels, 1), nn.BatchNorm2d(channels))

    def in_our_order(self) -> list[nn.Parameter]:
        last = [*self.transform.parameters(), *self.theta.parameters()]
        return [*last, *self.phi.parameters(), *self.psi.parameters()]

    def forward(self, x: Tensor, signal: Tensor) -> Tensor:
        theta = self.theta(x)
        phi = F.interpolate(self.phi(signal), size=theta.shape[2:], mode="bilinear")
        mask = torch.sigmoid(self.psi(F.relu(theta + phi, inplace=True)))
        mask = F.interpolate(mask, size=x.shape[2:], mode="bilinear")
        return self.transform(mask.expand_as(x) * x)


PLAIN: dict[str, type[nn.Module]] = {
    "cmpe-se": CMPESE,
    "aff": AFF,
    "iaff": IAFF,
    "ran": RAN,
    "attention-gate": AttentionGate,
}
