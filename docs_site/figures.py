"""A mechanism -> a picture of what its gate does to a photograph, before it has learned anything.

Every mechanism is put into the same ResNet-18 of random weights, as its authors start it, and its
own weights are shaken, as some start where nothing is to be seen. What is drawn is its form.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from torch import nn

import attnsurgeon
from attnsurgeon.attention.registry import Mechanism
from attnsurgeon.looking.drawing import figures_of, written
from attnsurgeon.looking.look import look_at

NETWORK = "resnet18"
ELSEWHERE = {"coord": "residual-branch"}  # whose own place this network does not have
SHAKEN = 0.2


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
    model: Any = attnsurgeon.load_model(NETWORK, zero_init_last=False).eval()
    where = ELSEWHERE.get(card.name, "paper")
    operation = attnsurgeon.insert(model, card.name, where, init="paper", inplace=True)
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
    return cut.site.path
