"""Gates with a value for each position, alone or besides those of the channels."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class NAM(nn.Module):
    def __init__(self, channels: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        residual = x
        x = self.norm(x)
        weight = self.norm.weight.data.abs() / torch.sum(self.norm.weight.data.abs())
        x = x.permute(0, 2, 3, 1).contiguous()
        x = torch.mul(weight, x)
        x = x.permute(0, 3, 1, 2).contiguous()
        return torch.sigmoid(x) * residual


class SGE(nn.Module):
    def __init__(self, channels: int, size: tuple[int, int], groups: int = 64) -> None:
        super().__init__()
        self.groups = groups
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.weight = nn.Parameter(torch.zeros(1, groups, 1, 1))
        self.bias = nn.Parameter(torch.ones(1, groups, 1, 1))
        self.gate = nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        x = x.view(n * self.groups, -1, h, w)
        t = (x * self.pool(x)).sum(dim=1, keepdim=True)
        t = t.view(n * self.groups, -1)
        t = t - t.mean(dim=1, keepdim=True)
        t = t / (t.std(dim=1, keepdim=True) + 1e-5)
        t = t.view(n, self.groups, h, w) * self.weight + self.bias
        x = x * self.gate(t.view(n * self.groups, 1, h, w))
        return x.view(n, c, h, w)


class Subspace(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.dws = nn.Conv2d(channels, channels, 1, groups=channels)
        self.dws_norm = nn.BatchNorm2d(channels, momentum=0.9)
        self.dws_relu = nn.ReLU()
        self.pool = nn.MaxPool2d(3, 1, 1)
        self.point = nn.Conv2d(channels, 1, 1)
        self.point_norm = nn.BatchNorm2d(1, momentum=0.9)
        self.point_relu = nn.ReLU()
        self.softmax = nn.Softmax(dim=2)

    def forward(self, x: Tensor) -> Tensor:
        out = self.pool(self.dws_relu(self.dws_norm(self.dws(x))))
        out = self.point_relu(self.point_norm(self.point(out)))
        n, c, h, w = out.shape
        out = self.softmax(out.view(n, c, -1)).view(n, c, h, w)
        out = out.expand(x.shape)
        return torch.mul(out, x) + x


class ULSAM(nn.Module):
    def __init__(self, channels: int, size: tuple[int, int], groups: int = 4) -> None:
        super().__init__()
        self.subspaces = nn.ModuleList(Subspace(channels // groups) for _ in range(groups))

    def forward(self, x: Tensor) -> Tensor:
        parts = torch.chunk(x, len(self.subspaces), dim=1)
        return torch.cat([s(p) for s, p in zip(self.subspaces, parts, strict=True)], dim=1)

    def in_our_order(self) -> list[list[nn.Parameter]]:
        """Returns for each parameter of the mechanism those of all groups that it stands for."""
        names = ("dws.weight", "dws.bias", "point.weight", "point.bias", "dws_norm.weight")
        names += ("dws_norm.bias", "point_norm.weight", "point_norm.bias")
        return [[space.get_parameter(name) for space in self.subspaces] for name in names]


class SCSE(nn.Module):
    def __init__(self, channels: int, size: tuple[int, int]) -> None:
        super().__init__()
        m = channels // 2
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc1, self.fc2 = nn.Linear(channels, m), nn.Linear(m, channels)
        self.relu, self.gate = nn.ReLU(), nn.Sigmoid()
        self.conv = nn.Conv2d(channels, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        squeezed = self.pool(x).view(n, c)
        by_channel = self.gate(self.fc2(self.relu(self.fc1(squeezed))))
        by_channel = torch.mul(x, by_channel.view(n, c, 1, 1))
        by_position = torch.mul(x, self.gate(self.conv(x)).view(n, 1, h, w))
        return torch.max(by_channel, by_position)


class BAM(nn.Module):
    def __init__(self, channels: int, size: tuple[int, int]) -> None:
        super().__init__()
        m = channels // 16
        self.fc1, self.norm = nn.Linear(channels, m), nn.BatchNorm1d(m)
        self.fc2 = nn.Linear(m, channels)
        self.reduce = nn.Sequential(nn.Conv2d(channels, m, 1), nn.BatchNorm2d(m), nn.ReLU())
        self.dilate = nn.Sequential(
            *(nn.Conv2d(m, m, 3, padding=4, dilation=4), nn.BatchNorm2d(m), nn.ReLU()),
            *(nn.Conv2d(m, m, 3, padding=4, dilation=4), nn.BatchNorm2d(m), nn.ReLU()),
        )
        self.conv = nn.Conv2d(m, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        squeezed = F.avg_pool2d(x, x.shape[2:], stride=x.shape[2:]).flatten(1)
        by_channel = self.fc2(F.relu(self.norm(self.fc1(squeezed))))
        by_channel = by_channel.unsqueeze(2).unsqueeze(3).expand_as(x)
        by_position = self.conv(self.dilate(self.reduce(x))).expand_as(x)
        return (1 + torch.sigmoid(by_channel * by_position)) * x


class SA(nn.Module):
    def __init__(self, channels: int, size: tuple[int, int], groups: int = 64) -> None:
        super().__init__()
        c = channels // (2 * groups)
        self.groups = groups
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.channel_weight = nn.Parameter(torch.zeros(1, c, 1, 1))
        self.channel_bias = nn.Parameter(torch.ones(1, c, 1, 1))
        self.spatial_weight = nn.Parameter(torch.zeros(1, c, 1, 1))
        self.spatial_bias = nn.Parameter(torch.ones(1, c, 1, 1))
        self.gate = nn.Sigmoid()
        self.norm = nn.GroupNorm(c, c)

    def forward(self, x: Tensor) -> Tensor:
        n, _, h, w = x.shape
        x = x.reshape(n * self.groups, -1, h, w)
        first, second = x.chunk(2, dim=1)
        by_channel = self.channel_weight * self.pool(first) + self.channel_bias
        first = first * self.gate(by_channel)
        by_position = self.spatial_weight * self.norm(second) + self.spatial_bias
        second = second * self.gate(by_position)
        out = torch.cat([first, second], dim=1).reshape(n, -1, h, w)
        return out.reshape(n, 2, -1, h, w).permute(0, 2, 1, 3, 4).reshape(n, -1, h, w)


class ZPool(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((torch.max(x, 1)[0].unsqueeze(1), torch.mean(x, 1).unsqueeze(1)), dim=1)


class SpatialGate(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.compress = ZPool()
        self.conv = nn.Conv2d(2, 1, 7, padding=3, bias=False)
        self.norm = nn.BatchNorm2d(1, momentum=0.01)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid_(self.norm(self.conv(self.compress(x))))


class Triplet(nn.Module):
    def __init__(self, channels: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.hw, self.cw, self.hc = SpatialGate(), SpatialGate(), SpatialGate()

    def forward(self, x: Tensor) -> Tensor:
        by_cw = self.cw(x.permute(0, 2, 1, 3).contiguous()).permute(0, 2, 1, 3).contiguous()
        by_hc = self.hc(x.permute(0, 3, 2, 1).contiguous()).permute(0, 3, 2, 1).contiguous()
        return 1 / 3 * (self.hw(x) + by_cw + by_hc)

    def in_our_order(self) -> list[Tensor]:
        """Returns the parameters as the mechanism has them: all kernels, then all norms."""
        gates = (self.hw, self.cw, self.hc)
        kernels = [gate.conv.weight for gate in gates]
        return kernels + [p for gate in gates for p in gate.norm.parameters()]


class CBAM(nn.Module):
    def __init__(self, channels: int, size: tuple[int, int]) -> None:
        super().__init__()
        m = channels // 16
        self.mlp = nn.Sequential(
            nn.Flatten(), nn.Linear(channels, m), nn.ReLU(), nn.Linear(m, channels)
        )
        self.spatial = SpatialGate()

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[2:]
        by_mean = self.mlp(F.avg_pool2d(x, size, stride=size))
        by_max = self.mlp(F.max_pool2d(x, size, stride=size))
        gate = torch.sigmoid(by_mean + by_max).unsqueeze(2).unsqueeze(3).expand_as(x)
        return self.spatial(x * gate)


class Coord(nn.Module):
    def __init__(self, channels: int, size: tuple[int, int]) -> None:
        super().__init__()
        m = max(8, channels // 32)
        self.pool_h, self.pool_w = nn.AdaptiveAvgPool2d((None, 1)), nn.AdaptiveAvgPool2d((1, None))
        self.conv, self.norm = nn.Conv2d(channels, m, 1), nn.BatchNorm2d(m)
        self.relu6 = nn.ReLU6(inplace=True)
        self.conv_h, self.conv_w = nn.Conv2d(m, channels, 1), nn.Conv2d(m, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        h, w = x.shape[2:]
        y = torch.cat([self.pool_h(x), self.pool_w(x).permute(0, 1, 3, 2)], dim=2)
        y = self.norm(self.conv(y))
        y = y * (self.relu6(y + 3) / 6)
        by_h, by_w = torch.split(y, [h, w], dim=2)
        by_h = self.conv_h(by_h).sigmoid()
        by_w = self.conv_w(by_w.permute(0, 1, 3, 2)).sigmoid()
        return x * by_w * by_h


class SimAM(nn.Module):
    def __init__(self, channels: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.gate = nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        n = x.shape[2] * x.shape[3] - 1
        d = (x - x.mean(dim=[2, 3], keepdim=True)).pow(2)
        y = d / (4 * (d.sum(dim=[2, 3], keepdim=True) / n + 1e-4)) + 0.5
        return x * self.gate(y)


class GAM(nn.Module):
    def __init__(self, channels: int, size: tuple[int, int]) -> None:
        super().__init__()
        m = channels // 4
        self.channel = nn.Sequential(
            nn.Linear(channels, m), nn.ReLU(inplace=True), nn.Linear(m, channels)
        )
        self.spatial = nn.Sequential(
            nn.Conv2d(channels, m, 7, padding=3),
            nn.BatchNorm2d(m),
            nn.ReLU(inplace=True),
            nn.Conv2d(m, channels, 7, padding=3),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        turned = x.permute(0, 2, 3, 1).reshape(n, -1, c)
        by_channel = self.channel(turned).view(n, h, w, c).permute(0, 3, 1, 2)
        x = x * by_channel
        return x * self.spatial(x).sigmoid()


PLAIN: dict[str, type[nn.Module]] = {
    "nam": NAM,
    "sge": SGE,
    "ulsam": ULSAM,
    "scse": SCSE,
    "bam": BAM,
    "sa": SA,
    "triplet": Triplet,
    "cbam": CBAM,
    "coord": Coord,
    "simam": SimAM,
    "gam": GAM,
}
