"""Blocks that assert, pad, crop or ask for types, in the forms in which they are published.

`stem, blocks, head` as in many a backbone; what each block decides by is said in its docstring.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

D = 12  # channels
HEADS = 3


class Attention(nn.Module):
    """Self-attention over tokens (B, N, C), with a bias that a window of N tokens has."""

    def __init__(self, tokens: int | None = None) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(D, 3 * D), nn.Linear(D, D)
        self.bias = nn.Parameter(torch.randn(tokens, tokens)) if tokens else None

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        b, n, c = x.shape
        qkv = self.qkv(x).reshape(b, n, 3, HEADS, c // HEADS).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        scores = (q * (c // HEADS) ** -0.5) @ k.transpose(-2, -1)
        if self.bias is not None:
            scores = scores + self.bias
        if mask is not None:
            windows = mask.shape[0]
            scores = scores.view(b // windows, windows, HEADS, n, n) + mask[:, None]
            scores = scores.view(-1, HEADS, n, n)
        return self.proj((scores.softmax(-1) @ v).transpose(1, 2).reshape(b, n, c))


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(D, 2 * D), nn.GELU(), nn.Linear(2 * D, D))


def cut_into_windows(x: Tensor, side: int) -> Tensor:
    """(B, H, W, C) -> (B * windows, side, side, C)."""
    b, h, w, c = x.shape
    x = x.view(b, h // side, side, w // side, side, c)
    return x.permute(0, 1, 3, 2, 4, 5).contiguous().view(-1, side, side, c)


def joined(windows: Tensor, side: int, h: int, w: int) -> Tensor:
    """(B * windows, side, side, C) -> (B, H, W, C)."""
    b = windows.shape[0] // (h * w // side // side)
    x = windows.view(b, h // side, w // side, side, side, -1)
    return x.permute(0, 1, 3, 2, 4, 5).contiguous().view(b, h, w, -1)


class WindowBlock(nn.Module):
    """Swin's: asserts how many tokens there are; shifts where it has a shift."""

    def __init__(self, resolution: tuple[int, int], side: int, shift: int) -> None:
        super().__init__()
        self.resolution, self.side, self.shift = resolution, side, shift
        self.norm1, self.norm2 = nn.LayerNorm(D), nn.LayerNorm(D)
        self.attn, self.mlp = Attention(side * side), mlp()
        windows = resolution[0] * resolution[1] // side**2
        mask = torch.zeros(windows, side**2, side**2) if shift else None
        self.register_buffer("mask", mask)

    def forward(self, x: Tensor) -> Tensor:
        h, w = self.resolution
        b, length, c = x.shape
        assert length == h * w, f"{length} tokens are not {h}x{w}"
        shortcut = x
        x = self.norm1(x).view(b, h, w, c)
        if self.shift > 0:
            x = torch.roll(x, (-self.shift, -self.shift), (1, 2))
        windows = cut_into_windows(x, self.side).view(-1, self.side * self.side, c)
        windows = self.attn(windows, mask=self.mask).view(-1, self.side, self.side, c)
        x = joined(windows, self.side, h, w)
        if self.shift > 0:
            x = torch.roll(x, (self.shift, self.shift), (1, 2))
        x = shortcut + x.view(b, h * w, c)
        return x + self.mlp(self.norm2(x))


class PaddedWindows(nn.Module):
    """Swin's for detection: pads maps that no windows fit, and crops where it has padded."""

    side = 4

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(D), nn.LayerNorm(D)
        self.attn, self.mlp = Attention(self.side**2), mlp()

    def forward(self, x: Tensor) -> Tensor:
        shortcut, x = x, self.norm1(x)
        _, h, w, c = x.shape
        right = (self.side - w % self.side) % self.side
        below = (self.side - h % self.side) % self.side
        x = F.pad(x, (0, 0, 0, right, 0, below))
        _, full_h, full_w, _ = x.shape
        windows = cut_into_windows(x, self.side).view(-1, self.side**2, c)
        windows = self.attn(windows).view(-1, self.side, self.side, c)
        x = joined(windows, self.side, full_h, full_w)
        if right > 0 or below > 0:
            x = x[:, :h, :w, :].contiguous()
        x = shortcut + x
        return x + self.mlp(self.norm2(x))


class PaddedWhereNeeded(PaddedWindows):
    """Segment Anything's: pads and crops, each only where it has to."""

    def forward(self, x: Tensor) -> Tensor:
        shortcut, x = x, self.norm1(x)
        _, h, w, c = x.shape
        below, right = (self.side - h % self.side) % self.side, (-w) % self.side
        if below > 0 or right > 0:
            x = F.pad(x, (0, 0, 0, right, 0, below))
        full_h, full_w = h + below, w + right
        windows = x.view(-1, full_h // self.side, self.side, full_w // self.side, self.side, c)
        windows = windows.permute(0, 1, 3, 2, 4, 5).reshape(-1, self.side**2, c)
        windows = self.attn(windows).view(-1, self.side, self.side, c)
        x = joined(windows, self.side, full_h, full_w)
        if full_h > h or full_w > w:
            x = x[:, :h, :w, :].contiguous()
        x = shortcut + x
        return x + self.mlp(self.norm2(x))


class Typed(nn.Module):
    """DINOv2's: takes a tensor, or a list of tensors, and nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(D), nn.LayerNorm(D)
        self.attn, self.mlp = Attention(), mlp()

    def one(self, x: Tensor) -> Tensor:
        def branch(x: Tensor) -> Tensor:
            return self.attn(self.norm1(x))

        x = x + branch(x)
        return x + self.mlp(self.norm2(x))

    def forward(self, given: Tensor | list[Tensor]) -> Tensor | list[Tensor]:
        if isinstance(given, Tensor):
            return self.one(given)
        if isinstance(given, list):
            return [self.one(x) for x in given]
        raise AssertionError


class EvenPadded(nn.Module):
    """A convolutional block that makes an odd map even, and back."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(D, D, 3, padding=1), nn.BatchNorm2d(D)

    def forward(self, x: Tensor) -> Tensor:
        width = x.shape[-1]
        if x.shape[-1] % 2:
            x = F.pad(x, (0, 1))
        x = x + F.gelu(self.norm(self.conv(x)))
        return x[..., :width] if width % 2 else x


class EvenOnly(EvenPadded):
    """A block that takes even maps only."""

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] % 2 != 0:
            raise ValueError(f"{{width}} is to be even, not {x.shape[-1]}")
        return x + F.gelu(self.norm(self.conv(x)))


class Folded(nn.Module):
    """A network of these blocks: `how` says in which form they are given their map."""

    def __init__(self, how: str, *blocks: nn.Module) -> None:
        super().__init__()
        self.how = how
        self.stem, self.blocks = nn.Conv2d(3, D, 4, 4), nn.Sequential(*blocks)
        self.head = nn.Linear(D, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        if self.how == "maps":
            return self.head(self.blocks(x).mean((2, 3)))
        if self.how == "channels last":
            return self.head(self.blocks(x.permute(0, 2, 3, 1)).mean((1, 2)))
        return self.head(self.blocks(x.flatten(2).transpose(1, 2)).mean(1))


def swin() -> nn.Module:
    return Folded("tokens", WindowBlock((8, 12), 4, 0), WindowBlock((8, 12), 4, 2))


def of(how: str, block: Callable[[], nn.Module]) -> nn.Module:
    return Folded(how, block(), block())
