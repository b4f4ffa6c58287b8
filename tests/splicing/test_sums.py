"""What takes the place of an addition has its layout in memory: what follows adds up alike."""

from __future__ import annotations

import itertools
import pickle

import pytest
import torch
from torch import nn

import attnsurgeon
from attnsurgeon.splicing.channels_first import as_the_sum

FORMS = {
    "x + y": lambda x, y: x + y,
    "y + x": lambda x, y: y + x,
    "y += x": lambda x, y: y.add_(x),
}


class Block(nn.Module):
    """A block whose branch comes back from channels-last, so that its sum has other strides."""

    def __init__(self, width: int, form: str) -> None:
        super().__init__()
        self.form = form
        self.mix, self.norm = (
            nn.Conv2d(width, width, 7, padding=3, groups=width),
            nn.LayerNorm(width),
        )
        self.wide, self.narrow = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x):
        y = self.norm(self.mix(x).permute(0, 2, 3, 1))
        y = self.narrow(nn.functional.gelu(self.wide(y))).permute(0, 3, 1, 2)
        return FORMS[self.form](x, y)


def network(form: str) -> nn.Module:
    down = nn.Conv2d(16, 24, 2, 2)
    return nn.Sequential(nn.Conv2d(3, 16, 4, 4), Block(16, form), down, Block(24, form)).eval()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("attn", ["aff", "iaff", "cmpe-se"])
def test_a_fusion_of_two_layouts_starts_bit_equal_and_with_the_same_strides(attn, form):
    net = network(form)
    operated = attnsurgeon.insert(net, attn, "residual-add", input_size=(3, 64, 48)).model.eval()
    x = torch.randn(2, 3, 64, 48)
    for given in (x, x.to(memory_format=torch.channels_last), x[..., :32, :32]):
        assert torch.equal(operated(given), net(given))
        assert operated(given).stride() == net(given).stride()
    again = pickle.loads(pickle.dumps(operated))
    assert torch.equal(again(x), net(x))
    operated(x).square().sum().backward()
    attention = [p for name, p in operated.named_parameters() if "attn" in name]
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in attention)


def dense(order: tuple[int, ...]) -> torch.Tensor:
    """A tensor (2, 3, 5, 7) whose axes lie in memory in this order."""
    shape = (2, 3, 5, 7)
    back = [order.index(axis) for axis in range(4)]
    return torch.randn([shape[axis] for axis in order]).permute(back)


ORDERS = list(itertools.permutations(range(4)))[::3]


@pytest.mark.parametrize("orders", list(itertools.product(ORDERS, ORDERS)), ids=str)
def test_the_strides_are_those_of_torch_s_own_sum(orders):
    first, second = map(dense, orders)
    y = torch.randn(2, 3, 5, 7)
    made = as_the_sum(y, first, second)
    assert made.stride() == (first + second).stride()
    assert torch.equal(made, y)
    assert as_the_sum(y, first, None).stride() == first.clone().add_(second).stride()


def test_what_has_the_strides_already_is_not_copied():
    x = dense((0, 2, 3, 1))
    assert as_the_sum(x, x, x.clone()) is x
    assert as_the_sum(x, x, None) is x
