"""Residual branches of published networks, against the blocks that their constructors are given."""

import pytest
import torch
from torch import nn

import attnsurgeon
from attnsurgeon.planning.additions import judged_otherwise
from tests.nets.families import beside, residuals
from tests.surgery import active, ready

timm = pytest.importorskip("timm")
torchvision = pytest.importorskip("torchvision")

# Of timm's networks the number of blocks with a shortcut, by what makes them hard to find.
BLOCKS = {
    "ghostnetv2_100": 16,  # a gate at half the resolution, in all but the first two
    "dpn68": 3 + 4 + 12 + 3,  # the first of each stage has a projection that bends
    "poolformerv2_s12": 2 * 12,  # a scale on the shortcut, a pooling for a branch
}


def branches(net: nn.Module) -> int:
    found = attnsurgeon.find_sites(net, input_size=(3, 224, 224))
    assert judged_otherwise(found.survey, ["residual-branch"]) == ""
    return len(found.where(site="residual-branch"))


@pytest.mark.slow
@pytest.mark.parametrize("name", BLOCKS)
def test_every_block_of_a_network_is_found(name):
    with torch.device("meta"):
        net = timm.create_model(name)
    assert branches(net) == BLOCKS[name]


@pytest.mark.parametrize("norm", [lambda width: nn.GroupNorm(4, width), nn.InstanceNorm2d])
def test_every_block_of_a_resnet_is_found_whatever_its_norm(norm):
    with torch.device("meta"):
        net = torchvision.models.resnet18(norm_layer=norm)
    assert branches(net) == 8


# pytorchcv is no dependency: where it is there, its own constructors say how many there are.
COUNTED = {
    "scnet50": 16,
    "airnet50_1x64d_r2": 16,
    "ghostnet": 16,
    "dpn68": 22,
    "sqnxt23_w1": 21,
    "revnet38": 16,  # seven reversible units have two, two strided ones have one
    "octresnet10_ad2": 7,  # four blocks, of which all but the last add at two resolutions
    "rir_cifar10": 32,  # to the residual stream of 16 units both streams add
}


@pytest.mark.slow
@pytest.mark.parametrize("name", COUNTED)
def test_every_block_of_a_network_of_pytorchcv_is_found(name):
    provider = pytest.importorskip("pytorchcv.model_provider")
    with torch.device("meta"):
        net = provider.get_model(name, pretrained=False)
    found = attnsurgeon.find_sites(net, input_size=(3, 224, 224))
    assert len(found.where(site="residual-branch")) == COUNTED[name]


@pytest.mark.parametrize(
    "build",
    [
        residuals.gated_below,
        residuals.dual_path,
        residuals.reversible,
        residuals.coupled,
    ],
)
@pytest.mark.parametrize(("attn", "where"), [("eca", "residual-branch"), ("aff", "residual-add")])
def test_what_is_newly_found_is_operated_and_unchanged(build, attn, where):
    net, x = ready(build()), torch.randn(2, 3, 48, 32)
    args = {"reduction": 2} if attn == "aff" else None
    operation = attnsurgeon.insert(net, attn, where, attn_args=args, input_size=(3, 48, 32))
    assert operation.plan.refused == ()
    with torch.no_grad():
        assert torch.equal(operation.model(x), net(x))
        assert not torch.allclose(active(operation.model)(x), net(x), atol=1e-4)


@pytest.mark.parametrize("build", [beside.OctaveOfOneBlock, beside.ResNetInResNet])
def test_a_block_that_is_given_two_streams_is_operated_and_unchanged(build):
    net, x = ready(build()), torch.randn(2, 3, 64, 64)
    operation = attnsurgeon.insert(net, "eca", "residual-branch", input_size=(3, 64, 64))
    assert operation.plan.refused == ()
    with torch.no_grad():
        assert torch.equal(operation.model(x), net(x))
        assert not torch.allclose(active(operation.model)(x), net(x), atol=1e-4)
