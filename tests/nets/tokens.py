"""Networks whose values are tokens, (N, L, C)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.nets.blocks import C


class Attention(nn.Module):
    """Self-attention with one head over (N, L, C)."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(C, 3 * C), nn.Linear(C, C)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        return self.proj((q @ k.transpose(-2, -1)).softmax(-1) @ v)


class WithWeights(Attention):
    """Returns a tuple, as Hugging Face's layers do: (output, None)."""

    def forward(self, x: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return super().forward(x), None


class Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(C, 17), nn.Linear(17, C)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Token(nn.Module):
    """ViT's block: two residual additions in a row on (N, L, C)."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.att, self.norm2, self.mlp = (
            nn.LayerNorm(C), Attention(), nn.LayerNorm(C), Mlp(),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.att(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class TupleToken(Token):
    """The same, whose attention returns a tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.att = WithWeights()

    def forward(self, x: Tensor) -> Tensor:
        made, _ = self.att(self.norm1(x))
        x = x + made
        return x + self.mlp(self.norm2(x))


class Parallel(Token):
    """Attention and MLP side by side on one norm: x + att(n) + mlp(n)."""

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm1(x)
        return x + self.att(normed) + self.mlp(normed)


class Mixer(nn.Module):
    """MLP-Mixer's block: one linear layer over the tokens, one over the channels."""

    def __init__(self, tokens: int) -> None:
        super().__init__()
        self.norm1, self.tokens = nn.LayerNorm(C), nn.Linear(tokens, tokens)
        self.norm2, self.mlp = nn.LayerNorm(C), Mlp()

    def forward(self, x: Tensor) -> Tensor:
        x = x + F.gelu(self.tokens(self.norm1(x).transpose(1, 2))).transpose(1, 2)
        return x + self.mlp(self.norm2(x))


class Tokens(nn.Module):
    """Patches, a learned position, the given blocks on (N, L, C), and a classifier."""

    def __init__(self, *blocks: nn.Module) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, C, 2, 2)
        self.position = nn.Parameter(torch.randn(1, 30, C))
        self.blocks, self.norm, self.fc = nn.Sequential(*blocks), nn.LayerNorm(C), nn.Linear(C, 7)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2) + self.position
        return self.fc(self.norm(self.blocks(x)).mean(1))


class Rotary(Attention):
    """Rotates the queries and keys: sums of products that are no residual additions."""

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        angle = torch.arange(x.shape[1], device=x.device)[:, None] / 10
        q = q * angle.cos() + q.roll(1, -1) * angle.sin()
        k = k * angle.cos() + k.roll(1, -1) * angle.sin()
        return self.proj((q @ k.transpose(-2, -1)).softmax(-1) @ v)


class Rotated(Token):
    def __init__(self) -> None:
        super().__init__()
        self.att = Rotary()
