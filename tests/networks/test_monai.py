"""Networks of MONAI for volumes and slices: residual, U-shaped, with windows of tokens."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch

import attnsurgeon
from attnsurgeon.checks.verify import randomise_norms
from attnsurgeon.splicing.history import inserted

nets = pytest.importorskip("monai.networks.nets")
pytest.importorskip("einops")  # which its networks of tokens need
pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Case:
    """A network, its input, and the ends of its residual branches, named by hand.

    Attributes:
        sure: branches beside an identity or a bare convolution.
        projected: those beside a projection with an InstanceNorm.
    """

    build: Callable[[], Any]
    size: tuple[int, ...]
    sure: tuple[str, ...]
    projected: tuple[str, ...] = ()


def _resnet() -> Any:
    return nets.ResNet(
        "basic", [2, 2, 2, 2], [8, 16, 24, 32], spatial_dims=3, n_input_channels=1, num_classes=3
    )


def _tokens() -> tuple[str, ...]:
    """Of every block the attention, whose last step differs by its padding, and the MLP."""
    layers = ((1, 0), (1, 1), (2, 0), (3, 0), (4, 0))
    blocks = [f"swinViT.layers{layer}.0.blocks.{block}" for layer, block in layers]
    return tuple(f"{block}.mlp.linear2" for block in blocks)


CASES: dict[str, Case] = {
    "ResNet": Case(
        _resnet,
        (1, 32, 32, 32),
        tuple(f"layer{stage}.{block}.bn2" for stage in (1, 2, 3, 4) for block in (0, 1)),
    ),
    # Its last unit is one bare convolution beside an identity, which is no branch.
    "UNet": Case(
        lambda: nets.UNet(3, 1, 2, (8, 16, 32), (2, 2), num_res_units=2),
        (1, 16, 16, 16),
        (
            "model.0.conv.unit1.adn.A",
            "model.1.submodule.0.conv.unit1.adn.A",
            "model.1.submodule.1.submodule.conv.unit1.adn.A",
            "model.1.submodule.2.1.conv.unit0.adn.A",
        ),
    ),
    "SegResNet": Case(
        lambda: nets.SegResNet(3, 8, 1, 2, blocks_down=(1, 2, 2), blocks_up=(1, 1)),
        (1, 16, 16, 16),
        (
            *("down_layers.0.1.conv2.conv", "down_layers.1.1.conv2.conv"),
            *("down_layers.1.2.conv2.conv", "down_layers.2.1.conv2.conv"),
            *("down_layers.2.2.conv2.conv", "up_layers.0.0.conv2.conv"),
            "up_layers.1.0.conv2.conv",
        ),
    ),
    "DynUNet": Case(
        lambda: nets.DynUNet(
            3, 1, 2, [3, 3, 3], [1, 2, 2], [2, 2], filters=[8, 16, 32], res_block=True
        ),
        (1, 16, 16, 16),
        (),
        ("input_block.norm2", "downsamples.0.norm2", "bottleneck.norm2"),
    ),
    "SwinUNETR": Case(
        lambda: nets.SwinUNETR(
            1, 2, feature_size=12, depths=(2, 1, 1, 1), num_heads=(3, 6, 12, 24), spatial_dims=2
        ),
        (1, 64, 64),
        (*_tokens(), *(f"encoder{n}.layer.norm2" for n in (2, 3, 4, 10))),
        ("encoder1.layer.norm2", *(f"decoder{n}.conv_block.norm2" for n in (5, 4, 3, 2, 1))),
    ),
}
each_case = pytest.mark.parametrize("name", CASES)


def built(name: str) -> Any:
    torch.manual_seed(0)
    model = CASES[name].build().eval()
    randomise_norms(model)
    return model


def made_of(model: Any, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return copy.deepcopy(model).eval()(x)


@each_case
def test_its_residual_branches_are_those_that_a_person_names(name):
    case = CASES[name]
    found = attnsurgeon.find_sites(built(name), input_size=case.size)
    branches = {site.path for site in found.where(site="residual-branch")}
    attention = {path for path in branches if ".blocks." in path and not path.endswith("linear2")}
    assert len(attention) == len([path for path in case.sure if path.endswith("linear2")])
    assert set(case.sure) <= branches
    assert branches - attention <= {*case.sure, *case.projected}


@each_case
def test_outputs_are_bit_equal_at_every_place_and_move_when_attention_acts(name):
    case, model = CASES[name], built(name)
    x = torch.randn(2, *case.size)
    expected = made_of(model, x)
    places = [("se", "residual-branch"), ("eca", "stage"), ("simam", {"site": "conv", "stage": -1})]
    if not case.sure:
        places = places[1:]
    elif name == "SwinUNETR":  # three are minutes
        places = places[:1]
    for attn, where in places:
        operation = attnsurgeon.insert(model, attn, where, input_size=case.size)
        old = model.state_dict()
        assert [key for key in operation.model.state_dict() if key in old] == list(old)
        assert torch.equal(made_of(operation.model, x), expected)
        for _, part in inserted(operation.model):
            for parameter in part.parameters():
                parameter.data.add_(0.3)
        assert not torch.equal(made_of(operation.model, x), expected)


@each_case
def test_a_folder_brings_it_back_and_it_learns(name, tmp_path):
    case, model = CASES[name], built(name)
    operation = attnsurgeon.insert(model, "eca", "stage", input_size=case.size)
    checked = operation.verify()
    assert (checked.ok, checked.problems) == (True, ())
    for _, part in inserted(operation.model):
        for parameter in part.parameters():
            torch.nn.init.normal_(parameter)
    operation.save(tmp_path / "saved")
    loaded = attnsurgeon.load(tmp_path / "saved", model=case.build()).eval()
    x = torch.randn(1, *case.size)
    assert torch.equal(made_of(loaded, x), made_of(operation.model, x))


def test_a_spec_names_the_class_and_gives_its_arguments():
    model = attnsurgeon.load_model(  # `channels` of `estimate` itself says which sites
        "monai.networks.nets:UNet",
        spatial_dims=3,
        in_channels=1,
        out_channels=2,
        channels=(8, 16, 32),
        strides=(2, 2),
        num_res_units=2,
    )
    cost = attnsurgeon.estimate(model, "se", "residual-branch", input_size=(1, 16, 16, 16))
    assert cost.delta.params > 0
