"""What takes the place of an activation."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ATAC(nn.Module):
    def __init__(self, channels: int, size: tuple[int, int]) -> None:
        super().__init__()
        m = channels // 2
        self.gate = nn.Sequential(
            *(nn.Conv2d(channels, m, 1, bias=False), nn.BatchNorm2d(m), nn.ReLU(inplace=True)),
            *(nn.Conv2d(m, channels, 1, bias=False), nn.BatchNorm2d(channels), nn.Sigmoid()),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.mul(x, self.gate(x))


class DyReLU(nn.Module):
    spread: Tensor
    middle: Tensor

    def __init__(self, channels: int, size: tuple[int, int]) -> None:
        super().__init__()
        m = channels // 8
        self.fc1, self.fc2 = nn.Linear(channels, m), nn.Linear(m, 4 * channels)
        self.relu, self.sigmoid = nn.ReLU(inplace=True), nn.Sigmoid()
        self.register_buffer("spread", torch.tensor([1.0, 1.0, 0.5, 0.5]))
        self.register_buffer("middle", torch.tensor([1.0, 0.0, 0.0, 0.0]))

    def forward(self, x: Tensor) -> Tensor:
        n, c = x.shape[:2]
        theta = torch.mean(torch.mean(x, dim=-1), dim=-1)
        theta = 2 * self.sigmoid(self.fc2(self.relu(self.fc1(theta)))) - 1
        lines = theta.view(n, c, 4) * self.spread + self.middle
        turned = x.permute(2, 3, 0, 1).unsqueeze(-1)
        values = turned * lines[:, :, :2] + lines[:, :, 2:]
        return torch.max(values, dim=-1)[0].permute(2, 3, 0, 1)


class FReLU(nn.Module):
    def __init__(self, channels: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, 1, 1, groups=channels, bias=False)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return torch.max(x, self.norm(self.conv(x)))


class ACON(nn.Module):
    def __init__(self, channels: int, size: tuple[int, int]) -> None:
        super().__init__()
        m = max(16, channels // 16)
        self.p1 = nn.Parameter(torch.randn(1, channels, 1, 1))
        self.p2 = nn.Parameter(torch.randn(1, channels, 1, 1))
        self.fc1, self.norm1 = nn.Conv2d(channels, m, 1), nn.BatchNorm2d(m)
        self.fc2, self.norm2 = nn.Conv2d(m, channels, 1), nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        z = x.mean(dim=2, keepdim=True).mean(dim=3, keepdim=True)
        beta = torch.sigmoid(self.norm2(self.fc2(self.norm1(self.fc1(z)))))
        switch = torch.sigmoid(beta * (self.p1 * x - self.p2 * x))
        return (self.p1 * x - self.p2 * x) * switch + self.p2 * x


PLAIN: dict[str, type[nn.Module]] = {
    "atac": ATAC,
    "dyrelu": DyReLU,
    "frelu": FReLU,
    "acon": ACON,
}
