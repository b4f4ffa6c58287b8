"""What takes the place of a 3x3 convolution, of as many outputs as inputs."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def normed(conv: nn.Conv2d) -> list[nn.Module]:
    return [conv, nn.BatchNorm2d(conv.out_channels), nn.ReLU(inplace=True)]


class SK(nn.Module):
    def __init__(self, channels: int, size: tuple[int, int]) -> None:
        super().__init__()
        c, d = channels, channels // 16
        self.conv1 = nn.Sequential(*normed(nn.Conv2d(c, c, 3, padding=1, bias=False)))
        self.conv2 = nn.Sequential(*normed(nn.Conv2d(c, c, 3, padding=1, groups=32, bias=False)))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Sequential(*normed(nn.Conv2d(c, d, 1, bias=False)))
        self.fc2 = nn.Conv2d(d, 2 * c, 1, bias=False)
        self.softmax = nn.Softmax(1)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.conv1(x), self.conv2(x)
        z = self.fc2(self.fc1(self.pool(a) + self.pool(b)))
        shares = self.softmax(z.unsqueeze(1).view(x.shape[0], 2, -1, 1, 1))
        return a * shares[:, 0] + b * shares[:, 1]


class PSA(nn.Module):
    def __init__(self, channels: int, size: tuple[int, int]) -> None:
        super().__init__()
        c = channels // 4
        self.scales = nn.ModuleList(
            nn.Conv2d(channels, c, k, padding=k // 2, groups=groups, bias=False)
            for k, groups in ((3, 1), (5, 4), (7, 8), (9, 16))
        )
        self.se = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(c, c // 16, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(c // 16, c, 1),
            nn.Sigmoid(),
        )
        self.softmax = nn.Softmax(dim=1)

    def in_our_order(self) -> list[Tensor]:
        scales = [scale.get_parameter("weight") for scale in reversed(self.scales)]
        return [*scales, *self.se.parameters()]

    def forward(self, x: Tensor) -> Tensor:
        n, c = x.shape[0], x.shape[1] // 4
        maps = [scale(x) for scale in self.scales]
        z = torch.cat(maps, dim=1).view(n, 4, c, *x.shape[2:])
        weights = torch.cat([self.se(one) for one in maps], dim=1).view(n, 4, c, 1, 1)
        z = z * self.softmax(weights)
        out = z[:, 0]
        for i in range(1, 4):
            out = torch.cat((z[:, i], out), dim=1)
        return out


class SC(nn.Module):
    def __init__(self, channels: int, size: tuple[int, int]) -> None:
        super().__init__()

        def normed_conv() -> nn.Sequential:
            conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
            return nn.Sequential(conv, nn.BatchNorm2d(channels))

        self.pool = nn.AvgPool2d(4, 4)
        self.k2, self.k3, self.k4 = normed_conv(), normed_conv(), normed_conv()

    def forward(self, x: Tensor) -> Tensor:
        far = F.interpolate(self.k2(self.pool(x)), x.shape[2:])
        return self.k4(torch.mul(self.k3(x), torch.sigmoid(torch.add(x, far))))


class CoT(nn.Module):
    """Sums of windows as the authors' kernels for a GPU make them are made of unfolded ones."""

    def __init__(self, channels: int, size: tuple[int, int]) -> None:
        super().__init__()
        c, m = channels, max(channels // 2, 32)
        self.key = nn.Sequential(*normed(nn.Conv2d(c, c, 3, padding=1, groups=4, bias=False)))
        self.embed = nn.Sequential(
            *normed(nn.Conv2d(2 * c, c // 2, 1, bias=False)),
            nn.Conv2d(c // 2, 9 * c // 8, 1),
            nn.GroupNorm(c // 8, 9 * c // 8),
        )
        self.value = nn.Sequential(nn.Conv2d(c, c, 1, bias=False), nn.BatchNorm2d(c))
        self.unfold = nn.Unfold(3, padding=1)
        self.norm, self.act = nn.BatchNorm2d(c), nn.SiLU(inplace=True)
        self.se = nn.Sequential(*normed(nn.Conv2d(c, m, 1)), nn.Conv2d(m, 2 * c, 1))

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        k = self.key(x)
        weight = self.embed(torch.cat([x, k], dim=1)).view(n, 1, -1, 9, h, w)
        windows = self.unfold(self.value(x)).view(n, 8, -1, 9, h, w)
        x = self.act(self.norm((windows * weight).sum(3).view(n, c, h, w)))
        both = torch.cat([x.view(n, c, 1, h, w), k.view(n, c, 1, h, w)], dim=2)
        means = both.sum(dim=2).mean((2, 3), keepdim=True)
        shares = F.softmax(self.se(means).view(n, c, 2), dim=2)
        return (both * shares.reshape(n, c, 2, 1, 1)).sum(dim=2).contiguous()


class SplAt(nn.Module):
    def __init__(self, channels: int, size: tuple[int, int]) -> None:
        super().__init__()
        m = max(channels // 2, 32)
        self.conv = nn.Conv2d(channels, 2 * channels, 3, padding=1, groups=2, bias=False)
        self.norm, self.relu = nn.BatchNorm2d(2 * channels), nn.ReLU(inplace=True)
        self.fc1, self.norm1 = nn.Conv2d(channels, m, 1), nn.BatchNorm2d(m)
        self.fc2 = nn.Conv2d(m, 2 * channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        n, c = x.shape[:2]
        splits = torch.split(self.relu(self.norm(self.conv(x))), c, dim=1)
        z = self.fc1(F.adaptive_avg_pool2d(splits[0] + splits[1], 1))
        z = self.fc2(self.relu(self.norm1(z))).view(n, 1, 2, -1).transpose(1, 2)
        shares = torch.split(F.softmax(z, dim=1).reshape(n, -1).view(n, -1, 1, 1), c, dim=1)
        return (shares[0] * splits[0] + shares[1] * splits[1]).contiguous()


class Involution(nn.Module):
    def __init__(self, channels: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.groups = channels // 16
        self.reduce = nn.Sequential(*normed(nn.Conv2d(channels, channels // 4, 1, bias=False)))
        self.span = nn.Conv2d(channels // 4, 49 * self.groups, 1)
        self.unfold = nn.Unfold(7, padding=3)

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        weight = self.span(self.reduce(x)).view(n, self.groups, 49, h, w).unsqueeze(2)
        windows = self.unfold(x).view(n, self.groups, 16, 49, h, w)
        return (weight * windows).sum(dim=3).view(n, c, h, w)


PLAIN: dict[str, type[nn.Module]] = {
    "sk": SK,
    "psa": PSA,
    "sc": SC,
    "cot": CoT,
    "splat": SplAt,
    "involution": Involution,
}
