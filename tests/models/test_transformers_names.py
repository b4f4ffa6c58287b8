"""Specs of transformers: a folder, a class, a repository; what is missing is said."""

import json
import sys

import pytest
import torch

import attnsurgeon
from attnsurgeon.errors import ModelError
from attnsurgeon.models import identify, input_size_of, source_of


def test_a_missing_package_is_named_with_the_way_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)  # as where it is not installed
    with pytest.raises(ModelError) as refused:
        attnsurgeon.load_model("transformers:microsoft/resnet-50")
    assert "attnsurgeon[transformers]" in (refused.value.hint or "")


@pytest.fixture(scope="module")
def hf():
    return pytest.importorskip("transformers")


@pytest.fixture
def network(hf):
    config = hf.ConvNextConfig(
        depths=[1, 1, 1, 1],
        hidden_sizes=[4, 8, 12, 16],
        image_size=96,
        num_channels=2,
        num_labels=5,
    )
    return hf.ConvNextForImageClassification(config)


@pytest.mark.slow
def test_a_folder_is_built_with_random_weights_or_its_own(network, tmp_path):
    network.save_pretrained(tmp_path)
    spec = f"transformers:{tmp_path}"
    random = attnsurgeon.load_model(spec)
    assert type(random) is type(network)
    assert [(k, v.shape) for k, v in random.state_dict().items()] == [
        (k, v.shape) for k, v in network.state_dict().items()
    ]
    assert not torch.equal(random.classifier.weight, network.classifier.weight)
    assert source_of(random).weights == "random"
    own = attnsurgeon.load_model(spec, pretrained=True)
    assert all(map(torch.equal, own.state_dict().values(), network.state_dict().values()))
    checkpoint = tmp_path / "model.safetensors"
    read = attnsurgeon.load_model(spec, checkpoint=checkpoint)
    assert torch.equal(read.classifier.weight, network.classifier.weight)
    assert input_size_of(read) == (2, 96, 96)


@pytest.mark.slow
def test_arguments_change_the_config_and_unknown_ones_are_refused(hf, network, tmp_path):
    network.save_pretrained(tmp_path)
    built = attnsurgeon.load_model(f"transformers:{tmp_path}", num_labels=7)
    assert built.classifier.out_features == 7
    for spec in (f"transformers:{tmp_path}", "transformers:ConvNextForImageClassification"):
        with pytest.raises(ModelError, match="has no 'depht'") as refused:
            attnsurgeon.load_model(spec, depht=[1])
        assert "'depths'" in (refused.value.hint or "")


@pytest.mark.slow
def test_the_class_and_config_of_a_network_that_the_user_built_are_found(network):
    network.config.num_channels = 2
    source = identify(network)
    assert source is not None
    assert source.spec == "transformers:ConvNextForImageClassification"
    assert json.loads(json.dumps(source.model_args)) == source.model_args
    twin = attnsurgeon.load_model(source.spec, **source.model_args)
    assert repr(twin) == repr(network)
    network.convnext.encoder.stages[0].layers[0].act = torch.nn.ReLU()  # no config says so
    assert identify(network) is None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "match", "hint"),
    [
        ("", "empty", "microsoft"),
        ("ConvNextForImageClasification", "has no network", "ConvNextForImageClassification"),
        ("AutoConfig", "has no network", None),  # of transformers, and no network
        ("./nowhere/at/all", "no folder", None),
        ("nobody/nothing", "could not fetch nobody/nothing", "config.json"),
    ],
)
def test_what_is_not_there_is_said_in_one_message(hf, name, match, hint):
    with pytest.raises(ModelError, match=match) as refused:
        attnsurgeon.load_model(f"transformers:{name}")
    assert hint is None or hint in (refused.value.hint or "")


@pytest.mark.slow
def test_a_folder_of_something_else_and_an_operated_one_are_refused(hf, network, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="not a folder that transformers can read"):
        attnsurgeon.load_model(f"transformers:{tmp_path}")
    made = attnsurgeon.insert(network, "eca", "residual-branch").model
    made.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="has attention in it already") as refused:
        attnsurgeon.load_model(f"transformers:{tmp_path}", pretrained=True)
    assert "attnsurgeon.integrations.transformers" in (refused.value.hint or "")


@pytest.mark.slow
def test_a_class_has_no_weights_to_fetch(hf):
    with pytest.raises(ModelError, match="has no weights of its own"):
        attnsurgeon.load_model("transformers:ResNetForImageClassification", pretrained=True)
