"""What stands in the place of an activation is not put where a layer or a pooling is."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import attnsurgeon
from attnsurgeon.errors import SurgeonError
from tests.surgery import ready

SIZE = (3, 12, 10)


def net() -> nn.Module:
    return ready(
        nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.ReLU(),
            nn.MaxPool2d(2), nn.Flatten(), nn.Linear(160, 8),
        )
    )  # fmt: skip


@pytest.mark.parametrize(
    ("path", "kind"), [("0", "Conv2d"), ("3", "Conv2d"), ("5", "MaxPool2d"), ("7", "Linear")]
)
@pytest.mark.parametrize("init", ["identity", "paper"])
def test_it_is_refused_with_the_reason(path, kind, init):
    with pytest.raises(SurgeonError, match=f"{path}: it is made by a {kind}, and is no activation"):
        attnsurgeon.insert(net(), "dyrelu", {"name": path}, input_size=SIZE, init=init)


@pytest.mark.parametrize("attn", ["atac", "frelu", "acon", "dyrelu"])
def test_all_convolutions_are_refused_and_all_activations_taken(attn):
    model = net()
    with pytest.raises(SurgeonError, match="none of the 2 matched sites can be cut"):
        attnsurgeon.insert(model, attn, "conv", input_size=SIZE)
    operation = attnsurgeon.insert(model, attn, {"site": "act"}, input_size=SIZE)
    assert [cut.site.path for cut in operation.plan] == ["2", "4"]
    x = torch.randn(1, *SIZE)
    assert torch.equal(operation.model(x), model(x))
