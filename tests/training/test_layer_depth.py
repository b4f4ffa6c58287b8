"""Which layer a parameter is in: as timm's authors say, or as the network runs."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from torch import nn

import attnsurgeon
from attnsurgeon.errors import ModelError
from attnsurgeon.models import build_on_meta
from attnsurgeon.training.layer_depth import layers_of, recorded_layers


def grouped(layers: dict[str, int]) -> list[set[str]]:
    """The modules of each layer, outermost first two parts, in order."""
    found: list[set[str]] = [set() for _ in range(max(layers.values()) + 1)]
    for name, layer in layers.items():
        found[layer].add(".".join(name.split(".")[:2]))
    return found


@pytest.mark.parametrize("name", ["resnet18", "regnety_002", "test_vit", "resnetv2_50"])
def test_what_is_recorded_is_what_the_authors_say(name):
    model: Any = build_on_meta(name)
    said = timm.models.group_parameters(model, model.group_matcher(coarse=False), reverse=True)

    assert layers_of(model) == said
    assert recorded_layers(model) == said


def test_a_residual_network_of_torchvision_has_a_layer_a_block():
    layers = layers_of(build_on_meta("torchvision:resnet18"))

    blocks = [f"layer{stage}.{block}" for stage in range(1, 5) for block in range(2)]
    assert grouped(layers) == [
        {"conv1.weight", "bn1.weight", "bn1.bias"},
        *({block} for block in blocks),
        {"fc.weight", "fc.bias"},
    ]


def test_a_plain_network_has_a_layer_a_convolution_with_its_norm():
    layers = layers_of(build_on_meta("torchvision:vgg11_bn"))

    assert max(layers.values()) + 1 == 11  # what the name says
    assert layers["features.0.weight"] == layers["features.1.bias"] == 0
    assert layers["classifier.6.weight"] == 10


def test_repeated_modules_are_layers_where_nothing_is_residual():
    layers = layers_of(build_on_meta("torchvision:googlenet", aux_logits=False))

    inception = {n for n in layers if n.startswith("inception4c.")}
    assert len({layers[name] for name in inception}) == 1
    assert layers["conv1.conv.weight"] == 0
    assert layers["fc.weight"] == max(layers.values())


class Backwards(nn.Module):
    """Its layers run in another order than they are registered in, and one is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1, 1, 1, 1))
        self.last = nn.Linear(5, 2)
        self.first = nn.Conv2d(3, 5, 3)
        self.tied = nn.Conv2d(5, 5, 3, padding=1)
        self.again = nn.Conv2d(5, 5, 3, padding=1)
        self.again.weight = self.tied.weight
        self.unused = nn.Linear(3, 3)

    def forward(self, x):
        x = self.first(x) + self.token
        return self.last(self.again(self.tied(x)).mean((2, 3)))


def test_layers_are_counted_as_they_run_and_not_as_they_are_registered():
    assert recorded_layers(Backwards()) == {
        "token": 0,
        "first.weight": 0,
        "first.bias": 0,
        "tied.weight": 1,
        "tied.bias": 1,
        "again.bias": 2,  # its matrix is that of `tied`, and counts as the first that uses it
        "last.weight": 3,
        "last.bias": 3,
        "unused.weight": 4,
        "unused.bias": 4,
    }


def test_an_operated_network_is_recorded_at_the_size_it_was_operated_at():
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 5, 3)
            self.head = nn.Linear(5 * 17 * 21, 2)

        def forward(self, x):
            return self.head(self.conv(x).flatten(1))

    with pytest.raises(ModelError):
        layers_of(Fixed())
    operation = attnsurgeon.insert(Fixed(), "eca", {"site": "conv"}, input_size=(3, 19, 23))
    layers = layers_of(operation.model)
    assert layers["conv.weight"] == 0 < layers["head.weight"]
