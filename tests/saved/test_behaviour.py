"""A network on which something hangs that changes what it computes is not what its name builds."""

from __future__ import annotations

import types
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import attnsurgeon
from attnsurgeon.errors import ModelError
from attnsurgeon.models import Source, identify
from attnsurgeon.models.provenance import stamp
from attnsurgeon.saved import base
from attnsurgeon.saved.base import find_source

SOURCE = Source("test_resnet", {}, "random")


def scaled(model: Any) -> None:
    model.layer1.register_forward_hook(lambda module, args, output: output * 2)


def scaled_in_place(model: Any) -> None:
    model.layer1.register_forward_hook(lambda module, args, output: output.mul_(2))


def shifted(model: Any) -> None:
    model.layer2.register_forward_pre_hook(lambda module, args: (args[0] + 1,))


def doubled(model: Any) -> None:
    kind = type(model)
    model.forward = types.MethodType(lambda self, x: kind.forward(self, x) * 2, model)


def exchanged(model: Any) -> None:
    model.act1.forward = F.gelu


def watched(model: Any) -> None:
    seen: list[Any] = []
    model.layer1.register_forward_hook(lambda module, args, out: seen.append(out.detach().mean()))


def wrapped(model: Any) -> None:
    """As a trainer of mixed precision does it, which keeps the wrapper."""
    kind = type(model)
    model.forward = types.MethodType(lambda self, x: kind.forward(self, x.float()).float(), model)


def operated(change: Any = None, *, before: bool = False) -> Any:
    model = attnsurgeon.load_model("test_resnet")
    if before and change is not None:
        change(model)
    model = attnsurgeon.insert(model, "eca", "residual-branch").model
    if not before and change is not None:
        change(model)
    return model


@pytest.mark.parametrize("before", [True, False], ids=["before", "since"])
@pytest.mark.parametrize("change", [scaled, scaled_in_place, shifted, doubled, exchanged])
def test_what_changes_the_outputs_is_seen(change, before):
    assert find_source(operated(change, before=before), weights=False) is None


@pytest.mark.parametrize("before", [True, False], ids=["before", "since"])
@pytest.mark.parametrize("change", [watched, wrapped])
def test_what_only_watches_or_converts_is_passed_over(change, before):
    assert find_source(operated(change, before=before), weights=False) == SOURCE


def test_nothing_is_recorded_where_nothing_hangs(monkeypatch):
    monkeypatch.setattr(base, "computes_like", pytest.fail)
    model = operated()
    attnsurgeon.freeze_backbone(model)  # which holds norms by methods put on them
    assert find_source(model, weights=False) == SOURCE


def test_such_a_folder_asks_for_the_base_and_is_right_with_it(tmp_path):
    model = operated(scaled).eval()
    x = torch.randn(2, 3, 32, 48)
    attnsurgeon.save(model, tmp_path / "net")
    with pytest.raises(ModelError, match="does not know how to build its base network"):
        attnsurgeon.load(tmp_path / "net")
    plain = attnsurgeon.load_model("test_resnet")
    scaled(plain)
    assert torch.equal(attnsurgeon.load(tmp_path / "net", model=plain).eval()(x), model(x))


class Functional(nn.Module):
    """Whose activation is a function, of which no key, no shape and no print tells."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.act = F.relu

    def forward(self, x: Any) -> Any:
        return self.act(self.conv(x))


def test_a_function_of_a_layer_is_compared_by_name():
    model = stamp(Functional(), Source(f"{__name__}:Functional"))
    assert identify(model) is not None
    model.act = F.gelu
    assert identify(model) is None
