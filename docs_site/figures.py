"""A mechanism -> a picture of what its gate does to a photograph, before it has learned anything.

Every mechanism is put into the same ResNet-18 of random weights (one of skips into a small U-Net),
as its authors start it, and its own weights are shaken, as some start where nothing is to be seen.
What is drawn is its form.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from torch import Tensor, nn
from torch.nn import functional

import attnsurgeon
from attnsurgeon.attention.registry import Mechanism
from attnsurgeon.looking.drawing import figures_of, written
from attnsurgeon.looking.look import look_at

NETWORK = "resnet18"
ELSEWHERE = {"coord": "residual-branch"}  # whose own place this network does not have
SHAKEN = 0.2


class UNet(nn.Module):
    """Three resolutions below the image's, and what crosses at two of them."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 16, 32, 64, 64)
        self.down = nn.ModuleList(_convolved(a, b) for a, b in pairwise(widths))
        self.up = nn.ModuleList([_convolved(128, 32), _convolved(64, 16)])
        self.head = nn.Conv2d(16, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Returns scores of each place."""
        crossing = []
        for block in self.down:
            x = block(x)
            crossing.append(x)
            x = functional.max_pool2d(x, 2)
        x = crossing.pop()
        for block in self.up:
            x = functional.interpolate(x, scale_factor=2.0)
            x = block(torch.cat([crossing.pop(), x], dim=1))
        return self.head(x)


def _convolved(c_in: int, c: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(c_in, c, 3, padding=1), nn.BatchNorm2d(c), nn.ReLU())


@lru_cache(maxsize=1)
def photograph() -> Image.Image:
    """The flower of scikit-learn, as a square."""
    flower = Image.fromarray(load_sample_images().images[1])
    side = min(flower.size)
    left, top = (flower.width - side) // 2, (flower.height - side) // 2
    return flower.crop((left, top, left + side, top + side)).resize((256, 256))


def operated(card: Mechanism) -> attnsurgeon.Operation:
    """Returns the network with the mechanism, which has weights of its own."""
    torch.manual_seed(0)
    crosses = "skip" in card.placement
    model: Any = UNet() if crosses else attnsurgeon.load_model(NETWORK, zero_init_last=False)
    where = ELSEWHERE.get(card.name, "paper")
    operation = attnsurgeon.insert(model.eval(), card.name, where, init="paper", inplace=True)
    shake(operation.model, [cut.module_path for cut in operation.plan])
    return operation


def shake(model: nn.Module, paths: list[str]) -> None:
    """Adds to every weight of the attention a number of its own."""
    generator = torch.Generator().manual_seed(1)
    for path in dict.fromkeys(paths):
        for weight in model.get_submodule(path).parameters():
            weight.data += SHAKEN * torch.randn(weight.shape, generator=generator)


def draw(card: Mechanism, file: Path) -> str:
    """Draws one site of the mechanism; returns in words which one it is."""
    operation = operated(card)
    cuts = list(operation.plan)
    cut = cuts[min(2, len(cuts) - 1)]
    ((_, figure), *_) = figures_of(look_at(operation.model, photograph(), sites=cut.site.path))
    file.write_bytes(written(figure, "png"))
    return f"`{cut.site.path}` of a {'U-Net' if isinstance(operation.model, UNet) else 'ResNet-18'}"
