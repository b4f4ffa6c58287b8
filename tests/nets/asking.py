"""Networks that ask for something else than one image, each with an input and its sites by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Bottleneck(nn.Module):
    """The block of SlowFast: a temporal, a spatial and a pointwise convolution."""

    def __init__(self, channels: int, inner: int, out: int, frames: int, stride: int) -> None:
        super().__init__()
        self.a = nn.Conv3d(channels, inner, (frames, 1, 1), padding=(frames // 2, 0, 0), bias=False)
        self.a_norm = nn.BatchNorm3d(inner)
        self.b = nn.Conv3d(inner, inner, (1, 3, 3), (1, stride, stride), (0, 1, 1), bias=False)
        self.b_norm = nn.BatchNorm3d(inner)
        self.c = nn.Conv3d(inner, out, 1, bias=False)
        self.c_norm = nn.BatchNorm3d(out)
        self.shortcut = nn.Sequential(
            nn.Conv3d(channels, out, 1, (1, stride, stride), bias=False), nn.BatchNorm3d(out)
        )

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.a_norm(self.a(x)))
        y = F.relu(self.b_norm(self.b(y)))
        return F.relu(self.shortcut(x) + self.c_norm(self.c(y)))


class SlowFast(nn.Module):
    """Two pathways, of few frames and of many; the fast one is handed to the slow one twice."""

    def __init__(self) -> None:
        super().__init__()
        self.slow_stem = nn.Conv3d(3, 16, (1, 7, 7), (1, 2, 2), (0, 3, 3), bias=False)
        self.fast_stem = nn.Conv3d(3, 4, (5, 7, 7), (1, 2, 2), (2, 3, 3), bias=False)
        self.to_slow2, self.to_slow3 = (
            nn.Conv3d(c, 2 * c, (5, 1, 1), (4, 1, 1), (2, 0, 0), bias=False) for c in (4, 8)
        )
        self.slow2, self.fast2 = Bottleneck(24, 8, 32, 1, 1), Bottleneck(4, 2, 8, 3, 1)
        self.slow3, self.fast3 = Bottleneck(48, 16, 64, 3, 2), Bottleneck(8, 4, 16, 3, 2)
        self.head = nn.Linear(64 + 16, 7)

    def forward(self, pathways: list[Tensor]) -> Tensor:
        slow, fast = F.relu(self.slow_stem(pathways[0])), F.relu(self.fast_stem(pathways[1]))
        slow, fast = self.slow2(torch.cat([slow, self.to_slow2(fast)], 1)), self.fast2(fast)
        slow, fast = self.slow3(torch.cat([slow, self.to_slow3(fast)], 1)), self.fast3(fast)
        return self.head(torch.cat([slow.mean((2, 3, 4)), fast.mean((2, 3, 4))], 1))


class MobileBlock(nn.Module):
    """The block of X3D: expanded, depthwise in three axes, gated in every second one, projected."""

    def __init__(self, channels: int, out: int, stride: int, gated: bool) -> None:
        super().__init__()
        inner = 2 * out
        self.expand = nn.Sequential(nn.Conv3d(channels, inner, 1), nn.BatchNorm3d(inner), nn.ReLU())
        self.depth = nn.Conv3d(inner, inner, 3, (1, stride, stride), 1, groups=inner)
        self.depth_norm = nn.BatchNorm3d(inner)
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool3d(1), nn.Conv3d(inner, 8, 1), nn.ReLU(), nn.Conv3d(8, inner, 1),
            nn.Sigmoid(),
        ) if gated else None  # fmt: skip
        self.project, self.norm = nn.Conv3d(inner, out, 1), nn.BatchNorm3d(out)
        self.shortcut = nn.Conv3d(channels, out, 1, (1, stride, stride)) if stride > 1 else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.depth_norm(self.depth(self.expand(x)))
        y = y if self.gate is None else y * self.gate(y)
        y = self.norm(self.project(F.silu(y)))
        return F.relu((x if self.shortcut is None else self.shortcut(x)) + y)


class X3D(nn.Module):
    """One clip; the stem is a spatial convolution and a depthwise one over time."""

    def __init__(self) -> None:
        super().__init__()
        self.spatial = nn.Conv3d(3, 8, (1, 3, 3), (1, 2, 2), (0, 1, 1), bias=False)
        self.temporal = nn.Conv3d(8, 8, (5, 1, 1), padding=(2, 0, 0), groups=8, bias=False)
        self.norm = nn.BatchNorm3d(8)
        self.stage1 = nn.Sequential(MobileBlock(8, 8, 2, True), MobileBlock(8, 8, 1, False))
        self.stage2 = nn.Sequential(MobileBlock(8, 16, 2, True), MobileBlock(16, 16, 1, False))
        self.head = nn.Linear(16, 7)

    def forward(self, clip: Tensor) -> Tensor:
        x = F.relu(self.norm(self.temporal(self.spatial(clip))))
        return self.head(self.stage2(self.stage1(x)).mean((2, 3, 4)))


class TimeBlock(nn.Module):
    """The residual block of a diffusion network: the time is added between its convolutions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(4, channels), nn.GroupNorm(4, channels)
        self.conv1, self.conv2 = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))
        self.of_time = nn.Linear(16, channels)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        y = self.conv1(F.silu(self.norm1(x)))
        y = y + self.of_time(F.silu(time))[:, :, None, None]
        return x + self.conv2(F.silu(self.norm2(y)))


class Diffusion(nn.Module):
    """A U-Net that is told the time step, by a table of 50, and a context where there is one."""

    def __init__(self) -> None:
        super().__init__()
        self.time = nn.Embedding(50, 16)
        self.context = nn.Linear(5, 16)
        self.inside = nn.Conv2d(3, 8, 3, padding=1)
        self.down = TimeBlock(8)
        self.pool = nn.Conv2d(8, 16, 3, 2, 1)
        self.middle = TimeBlock(16)
        self.up = nn.ConvTranspose2d(16, 8, 2, 2)
        self.join = nn.Conv2d(16, 8, 1)
        self.last = TimeBlock(8)
        self.outside = nn.Conv2d(8, 3, 3, padding=1)

    def forward(
        self, x: Tensor, timesteps: Tensor, context: dict[str, Any] | None = None
    ) -> Tensor:
        time = self.time(timesteps)
        if context is not None:
            time = time + context["weight"] * self.context(context["words"]).mean(1)
        skip = self.down(self.inside(x), time)
        y = self.up(self.middle(self.pool(skip), time))
        return self.outside(self.last(self.join(torch.cat([y, skip], 1)), time))


class Sound(nn.Module):
    """A waveform (N, T), made a spectrogram by a convolution, then an image network."""

    def __init__(self) -> None:
        super().__init__()
        self.frames = nn.Conv1d(1, 32, 64, 32, bias=False)
        self.norm = nn.BatchNorm2d(1)
        self.block1, self.block2 = self._block(1, 8), self._block(8, 16)
        self.head = nn.Linear(16, 7)

    @staticmethod
    def _block(channels: int, out: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(channels, out, 3, padding=1), nn.BatchNorm2d(out), nn.ReLU(),
            nn.Conv2d(out, out, 3, padding=1), nn.BatchNorm2d(out), nn.ReLU(), nn.AvgPool2d(2),
        )  # fmt: skip

    def forward(self, waveform: Tensor) -> Tensor:
        spectrum = torch.log(self.frames(waveform[:, None]).square() + 1e-6)
        x = self.norm(spectrum.transpose(1, 2)[:, None])
        return self.head(self.block2(self.block1(x)).mean((2, 3)))


class Branch(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(torch.relu(self.norm(self.conv1(x))))


class Batch(nn.Module):
    """All of it in one dict, as a dataset hands it out, with what is no tensor beside."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = nn.Conv2d(3, 8, 3, padding=1)
        self.block = Branch(8)

    def forward(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        y = self.block(self.inside(batch["views"][0] + batch["views"][1]))
        y = y * batch["mask"][:, None] if batch["name"] == "train" else y
        return {"map": y / batch["scale"]}


class Keywords(nn.Module):
    """Arguments that are given by name, of which none comes first."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = nn.Conv2d(3, 8, 3, padding=1)
        self.words = nn.Embedding(11, 8)
        self.block = Branch(8)

    def forward(self, *, words: Tensor, pixels: Tensor, power: float = 1.0) -> Tensor:
        y = self.inside(pixels) + self.words(words).mean(1)[:, :, None, None]
        return self.block(y).mean((2, 3)) * power


@dataclass(frozen=True)
class Case:
    """A network, what it is called with, and the sites of a placement, named by hand."""

    build: Callable[[], nn.Module]
    example: Callable[[], Any]
    where: str
    sites: tuple[str, ...]


CASES: dict[str, Case] = {
    "slowfast": Case(
        SlowFast,
        lambda: [torch.randn(2, 3, 2, 20, 12), torch.randn(2, 3, 8, 20, 12)],
        "residual-branch",
        ("slow2.c_norm", "fast2.c_norm", "slow3.c_norm", "fast3.c_norm"),
    ),
    "x3d": Case(
        X3D,
        lambda: torch.randn(2, 3, 4, 20, 12),
        "residual-branch",
        ("stage1.0.norm", "stage1.1.norm", "stage2.0.norm", "stage2.1.norm"),
    ),
    "diffusion": Case(
        Diffusion,
        lambda: (torch.randn(2, 3, 16, 16), torch.tensor([3, 49])),
        "residual-branch",
        ("down.conv2", "middle.conv2", "last.conv2"),
    ),
    "diffusion-told": Case(
        Diffusion,
        lambda: (
            torch.randn(2, 3, 16, 16),
            {
                "timesteps": torch.tensor([3, 49]),
                "context": {"words": torch.randn(2, 4, 5), "weight": 0.5},
            },
        ),
        "residual-branch",
        ("down.conv2", "middle.conv2", "last.conv2"),
    ),
    "sound": Case(
        Sound,
        lambda: torch.randn(2, 1024),
        "conv3x3",
        ("block1.0", "block1.3", "block2.0", "block2.3"),
    ),
    "batch": Case(
        Batch,
        lambda: {
            "views": (torch.randn(2, 3, 16, 12), torch.randn(2, 3, 16, 12)),
            "mask": torch.rand(2, 16, 12) > 0.5,
            "name": "train",
            "scale": 2.0,
        },
        "residual-branch",
        ("block.conv2",),
    ),
    "keywords": Case(
        Keywords,
        lambda: {"words": torch.randint(11, (2, 6)), "pixels": torch.randn(2, 3, 16, 12)},
        "residual-branch",
        ("block.conv2",),
    ),
}


def fed(model: nn.Module, name: str, example: Any) -> list[Tensor]:
    """What a network makes of the example of a case, called as a person would call it."""
    with torch.no_grad():
        if name == "diffusion":
            made = model(*example)
        elif name == "diffusion-told":
            made = model(example[0], **example[1])
        else:
            made = model(**example) if name == "keywords" else model(example)
    return list(made.values()) if isinstance(made, dict) else [made]
