"""What is known of a base network: proved before it is written down, and not run on trust."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import timm
import torch
from torch import nn

import attnsurgeon
from attnsurgeon.errors import ModelError
from attnsurgeon.models import Source, source_of
from attnsurgeon.models.provenance import stamp
from attnsurgeon.saved.base import (
    Form,
    find_source,
    rebuild,
    source_from,
    source_record,
)
from tests.saved import networks


def operated(model: nn.Module) -> Any:
    return attnsurgeon.insert(model, "eca", "residual-branch").model


def test_a_network_of_load_model_is_known_by_its_note():
    model = operated(attnsurgeon.load_model("test_resnet", num_classes=7))

    assert find_source(model, weights=False) == Source("test_resnet", {"num_classes": 7}, "random")


def test_a_network_of_timm_is_recognised_without_a_note():
    found = find_source(operated(timm.create_model("test_resnet", in_chans=1)), weights=False)

    assert found is not None
    assert found.spec.startswith("test_resnet")
    assert found.model_args["in_chans"] == 1


def test_a_classifier_replaced_since_is_seen():
    model = operated(attnsurgeon.load_model("test_resnet"))
    model.reset_classifier(13)

    found = find_source(model, weights=False)
    assert found is not None
    assert found.model_args == {"num_classes": 13}


def test_a_network_changed_by_hand_is_not_taken_for_its_note():
    model = operated(attnsurgeon.load_model("test_resnet"))
    model.maxpool = nn.AvgPool2d(3, 2, 1)  # no key and no shape tells of it

    assert find_source(model, weights=False) is None


def test_arguments_that_json_cannot_hold_make_the_source_unknown():
    model = operated(attnsurgeon.load_model("test_resnet", act_layer=nn.SiLU))

    assert source_of(model) is not None
    assert find_source(model, weights=False) is None


def test_a_hub_name_is_replaced_by_the_name_it_stands_for_unless_its_weights_are_needed(
    monkeypatch,
):
    model = timm.create_model("test_resnet.r160_in1k")
    stamp(model, Source("hf-hub:org/net", {}, "pretrained"))
    model = operated(model)

    found = find_source(model, weights=False)
    assert found is not None
    assert (found.spec, found.weights) == ("test_resnet.r160_in1k", "pretrained")

    seen: list[str | None] = []
    monkeypatch.setattr(
        "attnsurgeon.saved.base.identify",
        lambda twin: seen.append(getattr(source_of(twin), "spec", None)),
    )
    find_source(model, weights=True)
    assert seen == ["hf-hub:org/net"]


def test_finding_the_source_leaves_the_network_alone():
    model = operated(attnsurgeon.load_model("test_resnet"))
    before = copy.deepcopy(model)
    find_source(model, weights=False)

    assert [type(m).__name__ for m in model.modules()] == [
        type(m).__name__ for m in before.modules()
    ]
    networks.assert_same(model, before)
    assert source_of(model) == source_of(before)


@pytest.mark.parametrize(
    "source",
    [
        None,
        Source("resnet18"),
        Source("timm:x", {"img_size": (5, 7), "layers": [2, 3]}, "checkpoint a b", ("module.",)),
    ],
)
def test_a_source_goes_through_json(source):
    assert source_from(json.loads(json.dumps(source_record(source)))) == source


def test_the_form_of_a_base_is_given_to_another(tmp_path):
    spec = f"{networks.write(tmp_path)}:fixed"
    wanted = attnsurgeon.load_model(spec).double().to(memory_format=torch.channels_last)
    wanted.head.to(torch.bfloat16)
    fresh = attnsurgeon.load_model(spec)

    form = Form.of(wanted)
    form.give_to(fresh)

    assert form.dtypes["head.weight"] == torch.bfloat16
    assert form.dtypes["stem.weight"] == torch.float64
    assert "blocks.0.bn.num_batches_tracked" not in form.dtypes
    assert "stem.weight" in form.strides
    for name, tensor in wanted.state_dict().items():
        other = fresh.state_dict()[name]
        assert (other.dtype, other.stride()) == (tensor.dtype, tensor.stride()), name
        assert torch.equal(other, tensor), name


def test_a_base_is_rebuilt_with_its_note_and_arguments(tmp_path):
    source = Source(f"{networks.write(tmp_path)}:make", {"classes": 3}, "as built")

    model: Any = rebuild(source, folder=tmp_path / "elsewhere", weights=False, trust=True)

    assert model.head.out_features == 3
    assert source_of(model) == source


@pytest.mark.parametrize("weights", [True, False])
def test_pretrained_weights_are_asked_for_only_where_they_are_needed(tmp_path, weights):
    source = Source(f"{networks.write(tmp_path)}:published", {}, "pretrained")

    one, other = (
        rebuild(source, folder=tmp_path / "f", weights=weights, trust=True) for _ in range(2)
    )

    assert (
        torch.equal(one.state_dict()["head.weight"], other.state_dict()["head.weight"]) == weights
    )


def test_a_base_that_cannot_be_built_says_what_else_can_be_done(tmp_path):
    with pytest.raises(ModelError, match=r"cannot be built again: .*gone\.py") as caught:
        rebuild(Source("gone.py:make"), folder=tmp_path, weights=False, trust=True)

    assert "model=base" in (caught.value.hint or "")
