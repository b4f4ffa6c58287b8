"""Names of timm and torchvision become the networks these libraries build, and nothing else."""

from __future__ import annotations

import copy
import pickle
import socket
import subprocess
import sys
import textwrap
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import nn

from attnsurgeon.errors import ModelError, UsageError
from attnsurgeon.models import Source, build_on_meta, load_model, source_of


def load_with(spec: str, arguments: dict[str, Any]) -> nn.Module:
    return load_model(spec, **arguments)


def same_weights(model: nn.Module, other: nn.Module) -> bool:
    ours, theirs = model.state_dict(), other.state_dict()
    return list(ours) == list(theirs) and all(torch.equal(ours[k], theirs[k]) for k in ours)


@pytest.mark.parametrize("spec", ["test_resnet", "timm:test_resnet", "test_resnet.r160_in1k"])
def test_a_timm_name_builds_what_timm_builds(spec):
    torch.manual_seed(3)
    model = load_model(spec, num_classes=7, in_chans=5)
    torch.manual_seed(3)
    oracle = timm.create_model("test_resnet", num_classes=7, in_chans=5)
    assert type(model) is type(oracle)
    assert same_weights(model, oracle)
    assert model.training


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("resnet18", "ResNet"),
        ("lraspp_mobilenet_v3_large", "LRASPP"),
        ("ssdlite320_mobilenet_v3_large", "SSD"),
        ("googlenet", "GoogLeNet"),  # warns of its default where the caller does not say it
    ],
)
def test_a_torchvision_name_of_any_task_builds_without_a_network(name, kind, no_network):
    assert type(load_model(f"torchvision:{name}")).__name__ == kind


def test_torchvision_weights_are_those_of_torchvision_for_the_same_seed():
    torch.manual_seed(3)
    model = load_model("torchvision:shufflenet_v2_x0_5", num_classes=7)
    torch.manual_seed(3)
    oracle = torchvision.models.shufflenet_v2_x0_5(num_classes=7)
    assert same_weights(model, oracle)


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*_args):
        pytest.fail("the network was touched")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.mark.parametrize("spec", ["test_vit", "test_efficientnet", "resnet18.fb_swsl_ig1b_ft_in1k"])
def test_timm_names_build_without_a_network(spec, no_network):
    load_model(spec)
    build_on_meta(spec)


def test_the_network_check_can_fail(no_network):
    with pytest.raises(pytest.fail.Exception, match="the network was touched"):
        load_model("torchvision:squeezenet1_1", pretrained=True)


@pytest.mark.parametrize("asked", [{"weights": "DEFAULT"}, {"weights_backbone": "DEFAULT"}])
def test_torchvision_weights_by_argument_need_the_word_pretrained(asked):
    with pytest.raises(ModelError, match="say pretrained=True as well"):
        load_with("torchvision:fcn_resnet50", asked)


@pytest.mark.parametrize(
    ("spec", "nearest"),
    [
        ("resnet50x", "'resnet50' or 'torchvision:resnet50'"),
        ("timm:resnet50x", "'resnet50' or 'torchvision:resnet50'"),
        ("torchvision:resnet5", "did you mean 'torchvision:resnet50' or 'resnet50'"),
        ("shufflenet_v2_x1_0", "did you mean 'torchvision:shufflenet_v2_x1_0'"),
        ("torchvision:convnext_nano", "'convnext_nano'"),
        ("ResNet50", "did you mean 'resnet50'"),
        ("test_resnet.r16_in1k", "did you mean 'test_resnet.r160_in1k'"),
        ("torchvison:resnet50", "did you mean 'torchvision'"),
        ("timm.models.resnett:resnet18", "did you mean 'resnet'"),
        ("timm.models.resnet:resnet17", "did you mean 'resnet"),
        ("zzzzzzzz", "timm.list_models"),
        ("timm/resnet18.a1_in1k", "hf-hub:timm/resnet18.a1_in1k"),
        ("hf-hubb:timm/resnet18", "did you mean 'hf-hub'"),
        ("", "'resnet50' .timm., 'timm:NAME'"),
        (3, "of type int"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest_known(spec, nearest):
    with pytest.raises(ModelError, match=nearest) as caught:
        load_model(spec)
    assert caught.value.exit_code == 3


def test_a_folder_is_pointed_to_load_and_a_file_of_weights_to_checkpoint(tmp_path, monkeypatch):
    with pytest.raises(ModelError, match=r"attnsurgeon\.load\("):
        load_model(str(tmp_path))
    weights = tmp_path / "best.pth"
    weights.write_bytes(b"")
    with pytest.raises(ModelError, match=r"checkpoint='.*best\.pth'"):
        load_model(str(weights))
    # A folder that happens to bear a network's name does not hide the network.
    (tmp_path / "test_resnet").mkdir()
    monkeypatch.chdir(tmp_path)
    assert type(load_model("test_resnet")).__name__ == "ResNet"


@pytest.mark.parametrize(
    ("spec", "argument", "nearest"),
    [
        ("test_resnet", "num_clases", "num_classes"),
        ("test_vit", "embed_dimm", "embed_dim"),
        ("torchvision:resnet18", "zero_init_residul", "zero_init_residual"),
    ],
)
def test_an_unknown_model_argument_is_named_with_the_nearest(spec, argument, nearest):
    with pytest.raises(ModelError, match=f"takes no argument '{argument}'") as caught:
        load_with(spec, {argument: 7})
    assert f"'{nearest}'" in str(caught.value)


def test_any_other_failure_of_a_constructor_is_quoted_with_its_place():
    with pytest.raises(ModelError, match=r"TypeError: unsupported operand.*patch_embed\.py:\d+"):
        load_model("test_vit", img_size="large")


def test_pretrained_and_checkpoint_together_are_refused(tmp_path):
    with pytest.raises(UsageError, match="both name the weights") as caught:
        load_model("test_resnet", pretrained=True, checkpoint=tmp_path / "w.pth")
    assert caught.value.exit_code == 2


def test_timms_own_checkpoint_argument_is_refused():
    with pytest.raises(ModelError, match="pass the file as checkpoint="):
        load_model("test_resnet", checkpoint_path="w.pth")


def test_the_source_is_noted_and_survives_copies_without_touching_the_state_dict():
    model = load_model("test_resnet", num_classes=7)
    expected = Source("test_resnet", {"num_classes": 7}, "random", ())
    assert source_of(model) == expected
    assert source_of(copy.deepcopy(model)) == expected
    assert source_of(pickle.loads(pickle.dumps(model))) == expected
    assert list(model.state_dict()) == list(timm.create_model("test_resnet").state_dict())
    assert source_of(timm.create_model("test_resnet")) is None


@pytest.mark.parametrize(
    "spec",
    [
        "test_resnet",
        "test_vit",
        "torchvision:mobilenet_v3_small",
        "torchvision:regnet_y_400mf",  # computes its widths with tensors
        "torchvision:inception_v3",
    ],
)
def test_the_meta_network_has_the_same_keys_shapes_and_dtypes_and_no_numbers(spec):
    real, meta = load_model(spec), build_on_meta(spec)
    assert type(real) is type(meta)
    described = [
        [(key, value.shape, value.dtype) for key, value in model.state_dict().items()]
        for model in (real, meta)
    ]
    assert described[0] == described[1]
    tensors = [*meta.parameters(), *meta.buffers()]
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    assert source_of(meta) == Source(spec, {}, "none", ())


class Tied(nn.Module):
    """One parameter at two places, and a width computed with tensors."""

    def __init__(self) -> None:
        super().__init__()
        width = int(torch.linspace(3, 7, 3)[1].item())
        shared = nn.Parameter(torch.ones(width))
        self.first = nn.Linear(2, width)
        self.second = nn.Linear(2, width)
        self.first.bias = shared
        self.second.bias = shared
        self.frozen = nn.Parameter(torch.zeros(2), requires_grad=False)
        self.register_buffer("steps", torch.arange(3))


class Decided(Tied):
    """Reads the numbers of a parameter, so that only a real build can succeed."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = float(self.first.bias.sum())


@pytest.mark.parametrize("factory", [Tied, Decided])
def test_constructors_that_compute_with_tensors_are_built_on_meta_all_the_same(factory):
    meta: Any = build_on_meta(f"{__name__}:{factory.__name__}")
    assert {t.device.type for t in (*meta.parameters(), *meta.buffers())} == {"meta"}
    assert meta.first.bias is meta.second.bias
    assert meta.first.bias.shape == (5,)
    assert not meta.frozen.requires_grad
    assert meta.first.weight.requires_grad
    # Nothing of the way there stays switched on.
    assert nn.Linear(2, 3).weight.device.type == "cpu"


def test_a_network_that_cannot_be_built_says_the_same_on_meta():
    with pytest.raises(ModelError, match="takes no argument 'num_clases'"):
        build_on_meta("test_resnet", num_clases=3)


@pytest.mark.slow
def test_importing_the_package_does_not_import_timm_or_torchvision():
    program = """
        import sys
        import attnsurgeon.models
        print([name for name in ("timm", "torchvision") if name in sys.modules])
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
