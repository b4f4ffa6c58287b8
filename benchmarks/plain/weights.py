"""A 3x3 convolution whose weight passes through attention, of as many outputs as inputs."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class WE(nn.Module):
    def __init__(self, channels: int, size: tuple[int, int]) -> None:
        super().__init__()
        m = max(channels // 16, 1)
        self.weight = nn.Parameter(torch.randn(channels, channels, 3, 3))
        self.fc1, self.fc2 = nn.Conv2d(channels, m, 1), nn.Conv2d(m, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        z = F.avg_pool2d(self.weight, self.weight.shape[2])
        gate = torch.sigmoid(self.fc2(F.relu(self.fc1(z))))
        return F.conv2d(x, self.weight * gate, padding=1)


class AW(nn.Module):
    def __init__(self, channels: int, size: tuple[int, int]) -> None:
        super().__init__()
        m = channels // 16
        self.weight = nn.Parameter(torch.randn(channels, channels, 3, 3))
        self.pool = nn.AdaptiveAvgPool2d(3)
        self.conv1, self.norm1 = nn.Conv2d(channels, m, 1, bias=False), nn.BatchNorm2d(m)
        self.conv2, self.norm2 = nn.Conv2d(m, channels, 1, bias=False), nn.BatchNorm2d(channels)
        self.relu, self.gate = nn.ReLU(inplace=True), nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        z = self.relu(self.norm1(self.conv1(self.pool(x))))
        gate = self.gate(self.norm2(self.conv2(z))).unsqueeze(2)
        return each(x, self.weight + gate * self.weight)


def each(x: Tensor, weight: Tensor) -> Tensor:
    """Image n with weight n, all images as groups of one convolution."""
    n, c, h, w = x.shape
    folded = x.reshape(1, n * c, h, w)
    out = F.conv2d(folded, weight.reshape(n * c, c, 3, 3), padding=1, groups=n)
    return out.view(n, c, *out.shape[2:])


class Kernels(nn.Module):
    """Several kernels; the first is the weight that ours keeps in the convolution."""

    def __init__(self, channels: int, number: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(number, channels, channels, 3, 3))

    def in_our_order(self) -> list[Tensor]:
        first, *others = self.parameters()
        return [first.data[0], *(p.data for p in others), first.data[1:]]


class CondConv(Kernels):
    def __init__(self, channels: int, size: tuple[int, int]) -> None:
        super().__init__(channels, 8)
        self.route = nn.Linear(channels, 8)

    def forward(self, x: Tensor) -> Tensor:
        pooled = F.adaptive_avg_pool2d(x, 1).flatten(1)
        routing = torch.sigmoid(self.route(pooled))
        return each(x, torch.matmul(routing, self.weight.view(8, -1)))


class DyConv(Kernels):
    def __init__(self, channels: int, size: tuple[int, int]) -> None:
        super().__init__(channels, 4)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Conv2d(channels, channels // 4 + 1, 1, bias=False)
        self.fc2 = nn.Conv2d(channels // 4 + 1, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        z = self.fc2(F.relu(self.fc1(self.pool(x)))).view(x.shape[0], -1)
        shares = F.softmax(z / 30, 1)
        return each(x, torch.mm(shares, self.weight.view(4, -1)))


class ODConv(Kernels):
    def __init__(self, channels: int, size: tuple[int, int]) -> None:
        super().__init__(channels, 4)
        m = max(channels // 16, 16)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Conv2d(channels, m, 1, bias=False)
        self.norm, self.relu = nn.BatchNorm2d(m), nn.ReLU(inplace=True)
        self.channel, self.filter = nn.Conv2d(m, channels, 1), nn.Conv2d(m, channels, 1)
        self.place, self.share = nn.Conv2d(m, 9, 1), nn.Conv2d(m, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        n = x.shape[0]
        z = self.relu(self.norm(self.fc(self.pool(x))))
        channel = torch.sigmoid(self.channel(z).view(n, -1, 1, 1))
        filters = torch.sigmoid(self.filter(z).view(n, -1, 1, 1))
        place = torch.sigmoid(self.place(z).view(n, 1, 1, 1, 3, 3))
        share = F.softmax(self.share(z).view(n, -1, 1, 1, 1, 1), dim=1)
        weight = torch.sum(place * share * self.weight.unsqueeze(0), dim=1)
        return each(x * channel, weight) * filters


PLAIN: dict[str, type[nn.Module]] = {
    "we": WE,
    "aw": AW,
    "condconv": CondConv,
    "dyconv": DyConv,
    "odconv": ODConv,
}
