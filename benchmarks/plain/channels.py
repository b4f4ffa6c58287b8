"""Gates with one value for each channel."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class SE(nn.Module):
    def __init__(self, channels: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        m = channels // 16
        self.fc = nn.Sequential(
            nn.Linear(channels, m), nn.ReLU(inplace=True), nn.Linear(m, channels), nn.Sigmoid()
        )

    def forward(self, x: Tensor) -> Tensor:
        n, c, _, _ = x.shape
        y = self.pool(x).view(n, c)
        y = self.fc(y).view(n, c, 1, 1)
        return x * y.expand_as(x)


class GE(nn.Module):
    """Theta-minus over the whole map, the default."""

    def __init__(self, channels: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.pool(x).sigmoid()


class GSoP(nn.Module):
    def __init__(self, channels: int, size: tuple[int, int]) -> None:
        super().__init__()
        d = 128
        self.relu_in, self.relu = nn.ReLU(), nn.ReLU(inplace=True)
        self.reduce = nn.Conv2d(channels, d, 1, 2 if channels <= 256 else 1)
        self.norm = nn.BatchNorm2d(d)
        self.row_norm = nn.BatchNorm2d(d)
        self.rows = nn.Conv2d(d, 4 * d, (d, 1), groups=d)
        self.expand = nn.Conv2d(4 * d, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        u = self.relu(self.norm(self.reduce(self.relu_in(x))))
        s = covariance(u)
        s = s.view(len(s), s.shape[1], s.shape[2], 1).contiguous()
        s = self.rows(self.row_norm(s))
        return x * self.expand(s).sigmoid()


def covariance(x: Tensor) -> Tensor:
    """With a matrix that centers and divides, one copy for each image of the batch."""
    n, c, h, w = x.shape
    m = h * w
    x = x.reshape(n, c, m)
    centring = (-1 / m / m) * torch.ones(m, m, device=x.device, dtype=x.dtype)
    centring = centring + (1 / m) * torch.eye(m, m, device=x.device, dtype=x.dtype)
    centring = centring.view(1, m, m).repeat(n, 1, 1)
    return x.bmm(centring).bmm(x.transpose(1, 2))


class SRM(nn.Module):
    def __init__(self, channels: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.cfc = nn.Parameter(torch.zeros(channels, 2))
        self.norm = nn.BatchNorm2d(channels)
        self.gate = nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        n, c, _, _ = x.shape
        mean = x.view(n, c, -1).mean(dim=2, keepdim=True)
        std = (x.view(n, c, -1).var(dim=2, keepdim=True) + 1e-5).sqrt()
        t = torch.cat((mean, std), dim=2)
        z = torch.sum(t * self.cfc[None], dim=2)[:, :, None, None]
        return x * self.gate(self.norm(z))


class ECA(nn.Module):
    def __init__(self, channels: int, size: tuple[int, int]) -> None:
        super().__init__()
        t = int(abs((math.log2(channels) + 1) / 2))
        k = t if t % 2 else t + 1
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.conv = nn.Conv1d(1, 1, k, padding=(k - 1) // 2, bias=False)
        self.gate = nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        y = self.pool(x)
        y = self.conv(y.squeeze(-1).transpose(-1, -2)).transpose(-1, -2).unsqueeze(-1)
        return x * self.gate(y).expand_as(x)


class SPA(nn.Module):
    def __init__(self, channels: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.pools = nn.ModuleList(nn.AdaptiveAvgPool2d(p) for p in (1, 2, 4))
        m = channels // 16
        self.fc = nn.Sequential(
            nn.Linear(21 * channels, m, bias=False),
            nn.ReLU(inplace=True),
            nn.Linear(m, channels, bias=False),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        n, c, _, _ = x.shape
        y = torch.cat([pool(x).view(n, -1) for pool in self.pools], dim=1)
        return x * self.fc(y).view(n, c, 1, 1)


class FCA(nn.Module):
    """A map of weights for each channel, as large as the input."""

    weight: Tensor
    TOP16 = (
        (0, 0, 6, 0, 0, 1, 1, 4, 5, 1, 3, 0, 0, 0, 3, 2),
        (0, 1, 0, 5, 2, 0, 2, 0, 0, 6, 0, 4, 6, 3, 5, 2),
    )

    def __init__(self, channels: int, size: tuple[int, int]) -> None:
        super().__init__()
        m = channels // 16
        self.register_buffer("weight", self.basis(channels, size))
        self.fc = nn.Sequential(
            nn.Linear(channels, m, bias=False),
            nn.ReLU(inplace=True),
            nn.Linear(m, channels, bias=False),
            nn.Sigmoid(),
        )

    def basis(self, channels: int, size: tuple[int, int]) -> Tensor:
        planes = []
        for u, v in zip(*self.TOP16, strict=True):
            down, across = (
                torch.tensor(
                    [
                        math.cos(math.pi * f * (n // 7) * (place + 0.5) / n)
                        * (math.sqrt(2 / n) if f else math.sqrt(1 / n))
                        for place in range(n)
                    ],
                    dtype=torch.float64,
                )
                for f, n in zip((u, v), size, strict=True)
            )
            planes.append(down[:, None] * across)
        return torch.stack(planes).repeat_interleave(channels // 16, 0)

    def forward(self, x: Tensor) -> Tensor:
        n, c, _, _ = x.shape
        z = torch.sum(x * self.weight, dim=[2, 3])
        return x * self.fc(z).view(n, c, 1, 1).expand_as(x)


class TSE(nn.Module):
    def __init__(self, channels: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.tile = (7, size[1])
        self.pool = nn.AvgPool2d(self.tile, self.tile, ceil_mode=True)
        m = channels // 16
        self.fc = nn.Sequential(
            nn.Conv2d(channels, m, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(m, channels, 1),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.fc(self.pool(x))
        y = torch.repeat_interleave(y, self.tile[0], dim=-2)[:, :, : x.shape[-2]]
        y = torch.repeat_interleave(y, self.tile[1], dim=-1)[:, :, :, : x.shape[-1]]
        return x * y


class SOCA(nn.Module):
    def __init__(self, channels: int, size: tuple[int, int]) -> None:
        super().__init__()
        m = channels // 8
        self.fc = nn.Sequential(
            nn.Conv2d(channels, m, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(m, channels, 1),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        n, c, _, _ = x.shape
        root = square_root(covariance(x), iterations=5)
        y = torch.mean(root, 1).view(n, c, 1, 1)
        return self.fc(y) * x


def square_root(x: Tensor, iterations: int) -> Tensor:
    n, c, _ = x.shape
    eye = 3 * torch.eye(c, device=x.device).view(1, c, c).repeat(n, 1, 1).type(x.dtype)
    trace = (1 / 3) * x.mul(eye).sum(dim=1).sum(dim=1)
    a = x.div(trace.view(n, 1, 1).expand_as(x))
    zy = 0.5 * (eye - a)
    y, z = a.bmm(zy), zy
    for _ in range(1, iterations - 1):
        zy = 0.5 * (eye - z.bmm(y))
        y, z = y.bmm(zy), zy.bmm(z)
    zy = 0.5 * y.bmm(eye - z.bmm(y))
    return zy * torch.sqrt(trace).view(n, 1, 1).expand_as(x)


class ESE(nn.Module):
    def __init__(self, channels: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * (nn.functional.relu6(self.fc(self.pool(x)) + 3.0, inplace=True) / 6.0)


class GCT(nn.Module):
    def __init__(self, channels: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(1, channels, 1, 1))
        self.gamma = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.beta = nn.Parameter(torch.zeros(1, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        s = (x.pow(2).sum((2, 3), keepdim=True) + 1e-5).pow(0.5) * self.alpha
        n = self.gamma / (s.pow(2).mean(dim=1, keepdim=True) + 1e-5).pow(0.5)
        return x * (1.0 + torch.tanh(s * n + self.beta))


class GC(nn.Module):
    def __init__(self, channels: int, size: tuple[int, int]) -> None:
        super().__init__()
        m = channels // 16
        self.mask, self.softmax = nn.Conv2d(channels, 1, 1), nn.Softmax(dim=2)
        self.transform = nn.Sequential(
            nn.Conv2d(channels, m, 1),
            nn.LayerNorm([m, 1, 1]),
            nn.ReLU(inplace=True),
            nn.Conv2d(m, channels, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        mask = self.softmax(self.mask(x).view(n, 1, h * w)).unsqueeze(-1)
        context = torch.matmul(x.view(n, c, h * w).unsqueeze(1), mask).view(n, c, 1, 1)
        return x + self.transform(context)


PLAIN: dict[str, type[nn.Module]] = {
    "se": SE,
    "ge": GE,
    "gsop": GSoP,
    "srm": SRM,
    "eca": ECA,
    "spa": SPA,
    "fca": FCA,
    "tse": TSE,
    "soca": SOCA,
    "ese": ESE,
    "gct": GCT,
    "gc": GC,
}
