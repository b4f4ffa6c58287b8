"""Segmenters of segmentation_models_pytorch: every decoder, encoders of three libraries."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch

import attnsurgeon
from attnsurgeon.checks.verify import randomise_norms
from attnsurgeon.errors import ModelError
from attnsurgeon.models import identify
from attnsurgeon.splicing.history import inserted

smp = pytest.importorskip("segmentation_models_pytorch")
pytestmark = pytest.mark.slow

SIZE = (3, 64, 96)
NARROW = (32, 16, 16, 16, 16)
# Name -> what builds it, and the residual branches of its encoder (and decoder), counted by hand.
NETWORKS: dict[str, tuple[Callable[[], Any], int]] = {
    "Unet": (lambda: smp.Unet("resnet18", decoder_channels=NARROW, **_PLAIN), 8),
    "Unet-timm": (
        lambda: smp.Unet("tu-mobilenetv3_small_050", decoder_channels=NARROW, **_PLAIN),
        7,
    ),
    "Unet-mobilenet": (lambda: smp.Unet("mobilenet_v2", decoder_channels=NARROW, **_PLAIN), 10),
    "UnetPlusPlus": (lambda: smp.UnetPlusPlus("resnet18", decoder_channels=NARROW, **_PLAIN), 8),
    "FPN": (
        lambda: smp.FPN(
            "resnet18",
            decoder_pyramid_channels=32,
            decoder_segmentation_channels=32,
            **_PLAIN,
        ),
        8,
    ),
    "DeepLabV3Plus": (lambda: smp.DeepLabV3Plus("resnet18", decoder_channels=32, **_PLAIN), 8),
    "MAnet": (
        lambda: smp.MAnet("resnet18", decoder_channels=NARROW, decoder_pab_channels=8, **_PLAIN),
        9,  # the attention of its centre is added to what it looks at
    ),
    "Segformer": (
        lambda: smp.Segformer("mit_b0", decoder_segmentation_channels=16, **_PLAIN),
        16,
    ),
    "PSPNet": (lambda: smp.PSPNet("resnet18", psp_out_channels=32, **_PLAIN), 4),
    "PAN": (lambda: smp.PAN("resnet18", decoder_channels=16, **_PLAIN), 8),
    "Linknet": (lambda: smp.Linknet("mobilenet_v2", **_PLAIN), 10),
    "UPerNet": (lambda: smp.UPerNet("resnet18", decoder_channels=16, **_PLAIN), 8),
}
_PLAIN = {"encoder_weights": None, "classes": 2}
each_network = pytest.mark.parametrize("name", NETWORKS)


def size_of(name: str) -> tuple[int, int, int]:
    return (3, 128, 160) if name == "PAN" else SIZE  # its pyramid goes down to a 128th


def built(name: str) -> Any:
    torch.manual_seed(0)
    model = NETWORKS[name][0]().eval()
    randomise_norms(model)
    return model


def made_of(model: Any, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return copy.deepcopy(model).eval()(x)


@each_network
def test_outputs_are_bit_equal_at_every_place_and_move_when_attention_acts(name):
    model, x = built(name), torch.randn(2, *size_of(name))
    expected = made_of(model, x)
    for attn, where in [("se", "residual-branch"), ("eca", "stage"), ("simam", "conv3x3")]:
        operation = attnsurgeon.insert(model, attn, where, input_size=size_of(name))
        assert not operation.plan.refused
        if where == "residual-branch":
            assert len(operation.plan) == NETWORKS[name][1]
        if where == "stage":
            assert len(operation.plan) >= 2
        added = tuple(f"{cut.module_path}." for cut in operation.plan)
        kept = [key for key in operation.model.state_dict() if not key.startswith(added)]
        assert kept == list(model.state_dict())
        assert torch.equal(made_of(operation.model, x), expected)
        for _, part in inserted(operation.model):
            for parameter in part.parameters():
                parameter.data.add_(0.3)
        moved = not torch.equal(made_of(operation.model, x), expected)
        assert moved or attn == "simam"  # which has no parameters but its blend
        if where == "residual-branch":
            assert attnsurgeon.audit(operation.model, input_size=size_of(name)).ok


@pytest.mark.parametrize("name", ["Unet-timm", "DeepLabV3Plus", "Segformer", "PSPNet", "Linknet"])
def test_gradients_reach_the_gates_and_a_folder_brings_it_back(name, tmp_path):
    model, x = built(name), torch.randn(2, *size_of(name))
    operation = attnsurgeon.insert(model, "eca", "residual-branch", input_size=size_of(name))
    operation.model.train()(x).square().mean().backward()
    gates: list[Any] = [part for _, part in inserted(operation.model)]
    assert all(part.conv.weight.grad.abs().sum() > 0 for part in gates)
    for part in gates:
        part.conv.weight.data.normal_()
    operation.save(tmp_path / "saved")
    loaded = attnsurgeon.load(tmp_path / "saved")  # it knows how the network was constructed
    assert torch.equal(made_of(loaded, x), made_of(operation.model, x))


def test_their_scse_is_not_taken_for_ours():
    model = smp.Unet(
        "resnet18", decoder_channels=NARROW, decoder_attention_type="scse", **_PLAIN
    ).eval()
    randomise_norms(model)
    assert attnsurgeon.audit(model, input_size=SIZE).calls == {}
    x = torch.randn(2, *SIZE)
    expected = made_of(model, x)
    operation = attnsurgeon.insert(model, "scse", "residual-branch", input_size=SIZE)
    audit = attnsurgeon.audit(operation.model, input_size=SIZE)
    assert audit.ok
    assert len(audit.calls) == len(operation.plan) == 8
    assert torch.equal(made_of(operation.model, x), expected)
    attnsurgeon.remove(operation.model)
    assert list(operation.model.state_dict()) == list(model.state_dict())
    assert torch.equal(made_of(operation.model, x), expected)


def test_a_spec_names_the_class_and_downloads_nothing_unasked():
    spec = "segmentation_models_pytorch:Unet"
    model = attnsurgeon.load_model(spec, encoder_name="resnet18", decoder_channels=list(NARROW))
    assert isinstance(model, smp.Unet)
    cost = attnsurgeon.estimate(
        spec, "eca", "residual-branch", encoder_name="resnet18", input_size=SIZE
    )
    assert cost.delta.params == 2 * 3 + 6 * 5  # kernels of 3 at 64 channels, of 5 at 128 to 512
    with pytest.raises(ModelError, match="would be downloaded"):
        attnsurgeon.load_model(spec, encoder_name="resnet18", encoder_weights="imagenet")


def test_a_network_that_the_user_built_is_recognised():
    source = identify(built("FPN"))
    assert source is not None
    assert source.spec.endswith(":FPN")
    changed = built("FPN")
    changed.segmentation_head[0] = torch.nn.Conv2d(32, 2, 3, padding=1)
    assert identify(changed) is None


def test_their_from_pretrained_says_that_it_has_no_attention(tmp_path):
    model = attnsurgeon.insert(built("Unet"), "se", "residual-branch", input_size=SIZE).model
    model.save_pretrained(tmp_path)
    with pytest.raises(RuntimeError, match="Unexpected key"):
        smp.from_pretrained(tmp_path)
