"""Attention with distances in the place of a 3x3 convolution, of as many outputs as inputs."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def by_index(logits: Tensor, keys: int) -> Tensor:
    """(M, A, 2 keys - 1) by distance -> (M, A, keys) by key."""
    m, queries, rows = logits.shape
    flat = F.pad(F.pad(logits, [0, 1]).flatten(1), [0, rows - queries])
    return flat.reshape(m, queries + 1, rows)[:, :queries, keys - 1 :]


def distances(q: Tensor, height: Tensor, width: Tensor) -> Tensor:
    """(M, h, w, d) and the tables of both axes -> (M, h w, keys)."""
    m, h, w, _ = q.shape
    i, j = (len(height) + 1) // 2, (len(width) + 1) // 2
    across = by_index((q @ width.T).flatten(0, 1), j).reshape(m, h, 1, w, j)
    across = across.expand(-1, -1, i, -1, -1).permute(0, 1, 3, 2, 4)
    down = by_index((q.transpose(1, 2) @ height.T).flatten(0, 1), i).reshape(m, w, 1, h, i)
    down = down.expand(-1, -1, j, -1, -1).permute(0, 3, 1, 4, 2)
    return (down + across).reshape(m, h * w, i * j)


class BoT(nn.Module):
    def __init__(self, channels: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.d = channels // 4
        self.qkv = nn.Conv2d(channels, 3 * channels, 1, bias=False)
        self.height = nn.Parameter(torch.zeros(2 * size[0] - 1, self.d))
        self.width = nn.Parameter(torch.zeros(2 * size[1] - 1, self.d))

    def in_our_order(self) -> list[Tensor]:
        return [self.qkv.weight, self.height, self.width]

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        q, k, v = self.qkv(x).reshape(n, 3, 4, self.d, h * w).permute(1, 0, 2, 4, 3).flatten(1, 2)
        q = q * self.d**-0.5
        place = distances(q.reshape(-1, h, w, self.d), self.height, self.width)
        attention = (q @ k.transpose(1, 2) + place).softmax(-1)
        return (attention @ v).transpose(1, 2).reshape(n, c, h, w)


class Halo(nn.Module):
    def __init__(self, channels: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.d = channels // 8
        self.q = nn.Conv2d(channels, channels, 1, bias=False)
        self.kv = nn.Conv2d(channels, 2 * channels, 1, bias=False)
        self.height, self.width = (nn.Parameter(torch.zeros(27, self.d)) for _ in range(2))

    def in_our_order(self) -> list[Tensor]:
        return [self.q.weight, self.kv.weight, self.height, self.width]

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        rest = [0, -w % 8, 0, -h % 8]  # what the last blocks lack
        q = F.pad(self.q(x), rest) * self.d**-0.5
        down, right = q.shape[2] // 8, q.shape[3] // 8
        q = q.reshape(n * 8, self.d, down, 8, right, 8).permute(0, 2, 4, 3, 5, 1)
        q = q.reshape(-1, 64, self.d)
        kv = F.pad(F.pad(self.kv(x), rest), [3, 3, 3, 3]).unfold(2, 14, 8).unfold(3, 14, 8)
        kv = kv.reshape(n * 8, 2 * self.d, down * right, 196).permute(0, 2, 3, 1)
        k, v = kv.flatten(0, 1).split(self.d, dim=2)
        place = distances(q.reshape(-1, 8, 8, self.d), self.height, self.width)
        out = (q @ k.transpose(1, 2) + place).softmax(-1) @ v
        out = out.reshape(n * 8, down, right, 8, 8, self.d).permute(0, 5, 1, 3, 2, 4)
        return out.reshape(n, c, down * 8, right * 8)[:, :, :h, :w].contiguous()


class Lambda(nn.Module):
    def __init__(self, channels: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.v = channels // 4
        self.qkv = nn.Conv2d(channels, 80 + self.v, 1, bias=False)
        self.norm_q, self.norm_v = nn.BatchNorm2d(64), nn.BatchNorm2d(self.v)
        self.place = nn.Conv3d(1, 16, (23, 23, 1), padding=(11, 11, 0))

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        q, k, v = torch.split(self.qkv(x), [64, 16, self.v], dim=1)
        q = self.norm_q(q).reshape(n, 4, 16, h * w).transpose(2, 3)
        v = self.norm_v(v).reshape(n, self.v, h * w).transpose(1, 2)
        k = k.reshape(n, 16, h * w).softmax(-1)
        content = q @ (k @ v).unsqueeze(1)
        near = self.place(v.reshape(n, 1, h, w, self.v))
        near = near.reshape(n, 1, 16, h * w, self.v).transpose(2, 3)
        out = content + (q.unsqueeze(3) @ near).squeeze(3)
        return out.transpose(2, 3).reshape(n, c, h, w)


PLAIN: dict[str, type[nn.Module]] = {"bot": BoT, "halo": Halo, "lambda": Lambda}
