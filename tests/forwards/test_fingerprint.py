"""Modules that share one shallow graph: the same code that has met the same things."""

import pytest
import torch
from torch import nn

import attnsurgeon
from attnsurgeon.forwards.fingerprint import fingerprint
from attnsurgeon.planning.cutting.graphs import graph_of
from attnsurgeon.sites.analysis import analyse


class Block(nn.Module):
    """A residual block with a say in how it adds, in attributes of every kind."""

    def __init__(self, scale=1.0, act=None, shape=(8, 8), options=None):
        super().__init__()
        self.conv = nn.Conv2d(*shape, 3, padding=1)
        self.act = act or nn.ReLU()
        self.scale = scale
        self.options = options or {"add": [True]}

    def forward(self, x):
        y = self.act(self.conv(x)) * self.scale
        return x + y if self.options["add"][0] else y + x


class Net(nn.Module):
    def __init__(self, *blocks):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return x


def alike(first, second):
    """Returns whether two blocks of one network count as alike."""
    calls = analyse(Net(first, second), (3, 16, 12)).traced.calls
    kinds = {}
    return fingerprint(calls["blocks.0"], kinds) == fingerprint(calls["blocks.1"], kinds)


def hooked():
    block = Block()
    block.conv.register_forward_hook(lambda module, args, output: None)
    return block


def frozen():
    block = Block()
    block.conv.weight.requires_grad_(False)
    return block


def test_equal_blocks_are_alike():
    assert alike(Block(), Block())
    assert alike(Block(0.5, nn.GELU()), Block(0.5, nn.GELU()))


@pytest.mark.parametrize(
    "other",
    [
        lambda: Block(0.5),
        lambda: Block(1),  # an int where the other has a float
        lambda: Block(act=nn.GELU()),
        lambda: Block(act=nn.ReLU(inplace=True)),
        lambda: Block(options={"add": [False]}),
        lambda: Block(options={"add": [True], "more": object()}),
        hooked,
        frozen,
    ],
)
def test_a_difference_anywhere_makes_them_unlike(other):
    assert not alike(Block(), other())


class Deciding(nn.Module):
    """Its forward depends on how it is called, not on what it is."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 1)

    def forward(self, x, twice=False):
        y = self.conv(x).relu()
        return x + y + y if twice else x + y


class Calling(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 1)
        self.once, self.twice = Deciding(), Deciding()

    def forward(self, x):
        return self.twice(self.once(self.stem(x)), twice=True)


def test_another_way_through_the_same_forward_is_unlike():
    calls = analyse(Calling(), (3, 16, 12)).traced.calls
    kinds = {}
    assert fingerprint(calls["once"], kinds) != fingerprint(calls["twice"], kinds)


def test_blocks_that_are_alike_share_one_graph_and_keep_their_own_weights():
    model = Net(Block(), Block(0.5), Block()).eval()
    survey = analyse(model, (3, 16, 12))
    graphs = [graph_of(survey, survey.traced.calls[f"blocks.{i}"][0]) for i in range(3)]
    assert graphs[0] is graphs[2] is not graphs[1]
    x = torch.randn(2, 3, 16, 12)
    args = {"attn_args": {"reduction": 4}, "input_size": (3, 16, 12)}
    operated = attnsurgeon.insert(model, "se", "residual-branch", **args).model
    assert torch.equal(operated(x), model(x))
    with torch.no_grad():
        operated.blocks[2].attn.fc2.bias.fill_(3.0)
    assert torch.equal(operated.blocks[0](model.stem(x)), model.blocks[0](model.stem(x)))
    assert not torch.equal(operated(x), model(x))
