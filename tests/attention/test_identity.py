"""The two exact starts, on modules simple enough to work out by hand."""

from typing import Any

import pytest
import torch
from torch import nn

from attnsurgeon.attention.identity import Blend, Gate, Identity, blend, native, zero


class Scaled(nn.Module):
    """y = x * gate(w x + b) at every value: small enough to follow by hand."""

    def __init__(self):
        super().__init__()
        self.last = nn.Linear(5, 5)
        self.gate = Gate()

    def forward(self, x):
        return x * self.gate(self.last(x))


def start(identity: Identity, module: nn.Module, replaced: nn.Module | None = None) -> Any:
    return identity.start(module, replaced)


def test_a_gate_is_a_sigmoid_and_opens_to_twice_it():
    gate, z = Gate(), torch.tensor([0.0, -1.5, 2.0], dtype=torch.float64)
    expected = 1 / (1 + torch.exp(-z))
    torch.testing.assert_close(gate(z), expected, rtol=0, atol=1e-15)
    gate.gain = 2.0
    torch.testing.assert_close(gate(z), 2 * expected, rtol=0, atol=1e-15)
    assert gate(z)[0].item() == 1.0


def test_native_zeroes_the_layers_it_names_and_opens_the_gates():
    module, x = Scaled(), torch.randn(3, 5)
    assert not torch.equal(module(x), x)
    assert start(native("last", how=""), module) is module
    assert torch.equal(module(x), x)
    assert module.gate.gain == 2.0
    assert not module.last.weight.any()
    assert not module.last.bias.any()


def test_zeroing_leaves_the_other_layers_alone():
    first, second = nn.Linear(3, 3), nn.Linear(3, 3)
    before = first.weight.clone()
    zero(nn.Sequential(first, second), "1")
    assert torch.equal(first.weight, before)
    assert not second.weight.any()


def test_a_layer_that_does_not_exist_is_our_own_mistake():
    with pytest.raises(AttributeError, match="nowhere"):
        zero(Scaled(), "nowhere")


def test_blend_starts_at_the_input_and_ends_at_the_mechanism():
    inner, x = Scaled().double(), torch.randn(3, 5, dtype=torch.float64)
    mixed = start(blend(), inner).double()
    assert torch.equal(mixed(x), x)
    for g in (0.25, 0.5, 1.0, 2.0):
        nn.init.constant_(mixed.g, g)
        expected = x + g * (inner(x) - x)
        torch.testing.assert_close(mixed(x), expected, rtol=0, atol=1e-12)


def test_blend_starts_at_what_it_replaces():
    conv, new, x = nn.Conv2d(3, 5, 1), nn.Conv2d(3, 5, 1), torch.randn(2, 3, 7, 11)
    mixed = start(blend(), new, conv)
    assert isinstance(mixed, Blend)
    assert torch.equal(mixed(x), conv(x))
    nn.init.ones_(mixed.g)
    torch.testing.assert_close(mixed(x), new(x))


def test_blend_can_name_what_was_there_before():
    mixed, x = start(blend(base=lambda _: nn.ReLU()), nn.Tanh()), torch.randn(5, 7)
    assert torch.equal(mixed(x), x.relu())


def test_only_the_blend_weight_learns_at_the_first_step():
    mixed, x = start(blend(), Scaled()), torch.randn(3, 5)
    mixed(x).square().sum().backward()
    assert mixed.g.grad.abs() > 0
    assert not mixed.inner.last.weight.grad.any()


def test_a_native_start_learns_in_its_last_layer_at_the_first_step():
    module, x = start(native("last", how=""), Scaled()), torch.randn(3, 5)
    module(x).square().sum().backward()
    assert module.last.weight.grad.any()


def test_a_mechanism_that_is_not_finite_cannot_be_blended_away():
    class Broken(nn.Module):
        def forward(self, x):
            return x / 0

    x = torch.ones(2)
    assert not torch.equal(Blend(Broken())(x), x)
