"""Attention that mixes positions, or the samples of a batch."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class CrissCross(nn.Module):
    def __init__(self, channels: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1))
        self.query = nn.Conv2d(channels, channels // 8, 1)
        self.key = nn.Conv2d(channels, channels // 8, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.softmax = nn.Softmax(dim=3)

    def forward(self, x: Tensor) -> Tensor:
        n, _, h, w = x.shape
        query, key, value = self.query(x), self.key(x), self.value(x)
        query_h = query.permute(0, 3, 1, 2).contiguous().view(n * w, -1, h).permute(0, 2, 1)
        query_w = query.permute(0, 2, 1, 3).contiguous().view(n * h, -1, w).permute(0, 2, 1)
        key_h = key.permute(0, 3, 1, 2).contiguous().view(n * w, -1, h)
        key_w = key.permute(0, 2, 1, 3).contiguous().view(n * h, -1, w)
        value_h = value.permute(0, 3, 1, 2).contiguous().view(n * w, -1, h)
        value_w = value.permute(0, 2, 1, 3).contiguous().view(n * h, -1, w)
        mask = -torch.diag(torch.tensor(float("inf"), device=x.device).repeat(h), 0)
        mask = mask.unsqueeze(0).repeat(n * w, 1, 1)
        energy_h = (torch.bmm(query_h, key_h) + mask).view(n, w, h, h).permute(0, 2, 1, 3)
        energy_w = torch.bmm(query_w, key_w).view(n, h, w, w)
        weights = self.softmax(torch.cat([energy_h, energy_w], 3))
        weights_h = weights[:, :, :, :h].permute(0, 2, 1, 3).contiguous().view(n * w, h, h)
        weights_w = weights[:, :, :, h : h + w].contiguous().view(n * h, w, w)
        out_h = torch.bmm(value_h, weights_h.permute(0, 2, 1))
        out_h = out_h.view(n, w, -1, h).permute(0, 2, 3, 1)
        out_w = torch.bmm(value_w, weights_w.permute(0, 2, 1))
        out_w = out_w.view(n, h, -1, w).permute(0, 2, 1, 3)
        return self.gamma * (out_h + out_w) + x


class S2(nn.Module):
    def __init__(self, channels: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.expand = nn.Linear(channels, 3 * channels)
        self.squeeze = nn.Linear(channels, channels, bias=False)
        self.gelu = nn.GELU()
        self.share = nn.Linear(channels, 3 * channels, bias=False)
        self.softmax = nn.Softmax(1)
        self.project = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1)
        n, h, w, c = x.shape
        x = self.expand(x)
        copies = torch.stack(
            [shift(x[..., :c], 1, 2), shift(x[..., c : 2 * c], 2, 1), x[..., 2 * c :]], 1
        )
        copies = copies.reshape(n, 3, h * w, c)
        total = torch.sum(torch.sum(copies, 1), 1)
        logits = self.share(self.gelu(self.squeeze(total))).reshape(n, 3, c)
        weights = self.softmax(logits).unsqueeze(-2)
        out = torch.sum(weights * copies, 1).reshape(n, h, w, c)
        return self.project(out).permute(0, 3, 1, 2)


def shift(x: Tensor, first: int, second: int) -> Tensor:
    """Quarters of the channels one place forth and back, along one axis and then the other."""
    quarter, y = x.shape[3] // 4, x.clone()
    for place, axis in enumerate((first, first, second, second)):
        part = slice(place * quarter, (place + 1) * quarter)
        source, target = x[..., part].transpose(1, axis), y[..., part].transpose(1, axis)
        if place % 2 == 0:
            target[:, 1:] = source[:, :-1]
        else:
            target[:, :-1] = source[:, 1:]
    return y


class BA2M(nn.Module):
    def __init__(self, channels: int, size: tuple[int, int]) -> None:
        super().__init__()
        m = channels // 16
        self.fc1 = nn.Linear(channels, m)
        self.fc2 = nn.Linear(m, channels, bias=False)
        self.bn_channel = nn.BatchNorm1d(channels)
        self.reduce = nn.Conv2d(channels, m, 1)
        self.near = nn.Conv2d(m, m, 3, padding=1)
        self.point = nn.Conv2d(m, 1, 1, bias=False)
        self.bn_local = nn.BatchNorm2d(1)
        self.f = nn.Conv2d(channels, m, 1, bias=False)
        self.g = nn.Conv2d(channels, m, 1, bias=False)
        self.h = nn.Conv2d(channels, m, 1, bias=False)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.relu = nn.ReLU()
        self.softmax = nn.Softmax(dim=2)

    def forward(self, x: Tensor) -> Tensor:
        n = x.shape[0]
        pooled = self.pool(x).view(n, -1)
        channel = self.bn_channel(self.fc2(self.relu(self.fc1(pooled))))
        local = self.bn_local(self.point(self.relu(self.near(self.relu(self.reduce(x))))))
        f, g, h = (layer(x).flatten(2) for layer in (self.f, self.g, self.h))
        whole = torch.bmm(self.softmax(torch.bmm(f.transpose(1, 2), g)), h.transpose(1, 2))
        maxima = [z.reshape(n, -1).max(dim=1).values for z in (channel, local, whole)]
        weights = n * torch.softmax(torch.stack(maxima).mean(0), dim=0)
        return x * weights.view(n, 1, 1, 1)


PLAIN: dict[str, type[nn.Module]] = {"crisscross": CrissCross, "s2": S2, "ba2m": BA2M}
