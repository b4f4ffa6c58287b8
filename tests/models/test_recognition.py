"""A network of the user's own making is recognised only where a rebuilt one is its equal."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import nn

from attnsurgeon.models import Source, build_on_meta, identify, load_model


def equal_on_meta(source: Source, model: nn.Module) -> bool:
    """An oracle apart from the code: the source must rebuild the network's shapes."""
    twin = build_on_meta(source.spec, **source.model_args)
    shapes = [{k: v.shape for k, v in m.state_dict().items()} for m in (model, twin)]
    return shapes[0] == shapes[1]


def test_a_timm_network_is_recognised_with_its_arguments():
    model = timm.create_model("test_resnet", num_classes=7, in_chans=5)
    source = identify(model)
    assert source is not None
    assert source.spec.partition(".")[0] == "test_resnet"
    assert dict(source.model_args) == {"num_classes": 7, "in_chans": 5}
    assert source.weights == "as built"
    assert equal_on_meta(source, model)


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_classes_and_channels_are_taken_from_the_network_where_nothing_noted_them(name):
    model: Any = timm.create_model(name, num_classes=7, in_chans=5)
    model._model_args = {}  # older timm versions note neither
    source = identify(model)
    assert source is not None
    assert dict(source.model_args) == {"num_classes": 7, "in_chans": 5}


def test_a_classifier_reset_after_loading_is_followed():
    model: Any = load_model("test_resnet")
    assert identify(model) == Source("test_resnet", {}, "random")
    model.reset_classifier(11)
    assert identify(model) == Source("test_resnet", {"num_classes": 11}, "random")


def test_the_stride_of_a_network_is_part_of_what_it_is():
    # The same class, keys and shapes; only the strides and dilations differ.
    strided: Any = timm.create_model("resnet10t", output_stride=16)
    strided._model_args = {"output_stride": 16}  # as present timm versions note by themselves
    plain = timm.create_model("resnet10t")
    assert [v.shape for v in strided.state_dict().values()] == [
        v.shape for v in plain.state_dict().values()
    ]
    source = identify(strided)
    assert source is not None
    assert source.model_args["output_stride"] == 16
    strided._model_args = {}
    assert identify(strided) is None


def test_a_dropout_rate_that_no_layer_prints_is_part_of_what_it_is():
    model: Any = timm.create_model("test_resnet", drop_rate=0.3)
    assert repr(model) == repr(timm.create_model("test_resnet"))
    model._model_args = {}
    assert identify(model) is None
    model._model_args = {"drop_rate": 0.3}
    source = identify(model)
    assert source is not None
    assert dict(source.model_args) == {"drop_rate": 0.3}


def test_a_network_that_holds_loose_tensors_is_compared_all_the_same():
    model: Any = load_model("test_resnet")
    model.means = (torch.zeros(3), torch.ones(3))
    assert identify(model) is not None


def test_a_network_in_use_is_still_itself():
    model: Any = timm.create_model("test_vit")
    model.set_grad_checkpointing(True)
    model.eval().requires_grad_(False)
    assert identify(model) is not None


def test_a_changed_network_is_not_recognised():
    model: Any = timm.create_model("test_resnet")
    model.act1 = nn.SiLU()
    assert identify(model) is None
    widened = load_model("test_resnet")
    widened.extra = nn.Linear(2, 3)
    assert identify(widened) is None
    retyped = load_model("test_resnet")
    retyped.__class__ = type("Grown", (type(retyped),), {})
    assert identify(retyped) is None


def test_networks_without_a_trace_of_their_origin_are_not_guessed_at():
    assert identify(torchvision.models.resnet18()) is None
    assert identify(nn.Conv2d(2, 3, 1)) is None


def test_a_wrong_word_of_origin_is_not_believed():
    model: Any = nn.Conv2d(2, 3, 1)
    for architecture in ("test_resnet", "no_such_network"):
        model.pretrained_cfg = {"architecture": architecture}
        assert identify(model) is None


def test_the_network_is_only_read():
    model: Any = timm.create_model("test_resnet", num_classes=7).eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    attributes = list(vars(model))
    identify(model)
    assert list(vars(model)) == attributes
    assert not model.training
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
