"""Layers that compute their weight (`torch.nn.utils.parametrize`), before surgery and since."""

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize

import attnsurgeon as surgeon
from attnsurgeon.forwards.retype import is_generated

KINDS = {"gate": "se", "weight": "we", "convolution": "odconv", "maps": "cbam"}
NAMES = ["first", "second", "third"]


class Convolutions(nn.Module):
    def __init__(self, bias=True):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1, bias=bias)
        self.second = nn.Conv2d(8, 8, 3, padding=1, bias=bias)
        self.third = nn.Conv2d(8, 8, 3, padding=1, bias=bias)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        return self.head(self.third(self.second(self.first(x)).relu()).relu().mean((2, 3)))


class Doubled(nn.Module):
    def forward(self, weight):
        return 2 * weight

    def right_inverse(self, weight):
        return weight / 2


def double(net):
    for name in NAMES:
        parametrize.register_parametrization(net.get_submodule(name), "weight", Doubled())


def bake(net):
    for name in NAMES:
        parametrize.remove_parametrizations(net.get_submodule(name), "weight")


@pytest.fixture
def x():
    return torch.randn(2, 3, 16, 16)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("attn", KINDS.values(), ids=KINDS)
def test_a_weight_that_was_computed_before_may_become_one_again(attn, bias, x):
    net: Any = Convolutions(bias).eval()
    for name in NAMES:
        parametrizations.weight_norm(net.get_submodule(name))
    expected = net(x)
    made = surgeon.insert(net, attn, "conv3x3", input_size=(3, 16, 16), inplace=True)
    assert len(made.plan.cuts) == 3
    assert torch.equal(net(x), expected)
    with torch.no_grad():  # what it computes is not what it once was
        for name in NAMES:
            net.get_submodule(name).parametrizations.weight.original0.mul_(1.5)
    expected = net(x)
    bake(net)
    assert torch.equal(net(x), expected)
    surgeon.remove(net)
    assert torch.equal(net(x), expected)
    assert {type(net.get_submodule(name)) for name in NAMES} == {nn.Conv2d}


@pytest.mark.parametrize("attn", KINDS.values(), ids=KINDS)
def test_a_weight_may_be_computed_since(attn, x):
    net: Any = Convolutions().eval()
    base = copy.deepcopy(net)
    made = surgeon.insert(net, attn, "conv3x3", input_size=(3, 16, 16), inplace=True)
    assert len(made.plan.cuts) == 3
    double(net)
    double(base)
    for name in NAMES:
        net.get_submodule(name).parametrizations.weight.original.data.add_(0.01)
        base.get_submodule(name).parametrizations.weight.original.data.add_(0.01)
    expected = base(x)
    assert torch.equal(net(x), expected)
    if attn != "odconv":  # beside which there is no room
        surgeon.insert(net, "eca", "conv3x3", input_size=(3, 16, 16), inplace=True)
        assert torch.equal(net(x), expected)
    head = parametrize.register_parametrization(net.head, "weight", Doubled())
    kind = type(head)
    expected = net(x)
    surgeon.remove(net)
    assert type(head) is kind  # it held none
    assert torch.equal(net(x), expected)
    parametrize.remove_parametrizations(head, "weight", leave_parametrized=False)
    assert net.state_dict().keys() == base.state_dict().keys()
    expected = net(x)
    bake(net)
    assert torch.equal(net(x), expected)
    assert {type(net.get_submodule(name)) for name in NAMES} == {nn.Conv2d}


def test_what_others_derived_from_a_layers_class_stays_when_the_attention_goes(x):
    """As `fully_shard` does: a class made for the object, above the one it had."""
    net: Any = Convolutions().eval()
    expected = net(x)
    surgeon.insert(net, "we", "conv3x3", input_size=(3, 16, 16), inplace=True)

    class Sharded:
        def unshard(self):
            return "unsharded"

    net.second.__class__ = type("ShardedConv2d", (Sharded, type(net.second)), {})
    assert is_generated(type(net.second))
    surgeon.remove(net)
    assert torch.equal(net(x), expected)
    assert not is_generated(type(net.second))
    assert type(net.second).__mro__[:3] == (type(net.second), Sharded, nn.Conv2d)
    assert net.second.unshard() == "unsharded"
    assert isinstance(net.second, nn.Conv2d)


def test_attention_whose_weight_is_computed_is_not_saved_as_if_it_could_be_built_again(tmp_path):
    net = surgeon.load_model("resnet18")
    surgeon.insert(net, "se", "residual-branch", input_size=(3, 64, 64), inplace=True)
    place = surgeon.audit(net).calls  # by the paths of what was put in
    path, layer = next(
        (path, layer)
        for path, layer in net.named_modules()
        if path.startswith(tuple(place)) and isinstance(layer, nn.Conv2d | nn.Linear)
    )
    parametrizations.spectral_norm(layer)
    folder = tmp_path / "net"
    with pytest.raises(surgeon.SurgeonError) as raised:
        surgeon.save(net, folder)
    assert f"its attention at {next(one for one in place if path.startswith(one))}" in str(
        raised.value
    )
    assert "weight is gone" in raised.value.what
    assert "take off first what others have put on its layers" in str(raised.value.hint)
    assert not folder.exists()
    parametrize.remove_parametrizations(layer, "weight")
    surgeon.save(net, folder)
    back = surgeon.load(folder)
    for name, value in net.state_dict().items():
        assert torch.equal(back.state_dict()[name], value), name
