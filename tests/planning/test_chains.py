"""Linked attention: a chain follows the data, and another batch is another chain."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

import attnsurgeon
from tests.networks.test_in_place import Block


class TwoEncoders(nn.Module):
    """One encoder sees both images as one batch, the other sees the first alone, as in RAFT."""

    def __init__(self) -> None:
        super().__init__()
        self.both = nn.Sequential(nn.Conv2d(3, 32, 3, 2, 1), Block(False), Block(False))
        self.first = nn.Sequential(nn.Conv2d(3, 32, 3, 2, 1), Block(False), Block(False))
        self.out = nn.Conv2d(96, 2, 3, padding=1)

    def forward(self, x, y):
        one, other = self.both(torch.cat((x, y), 0)).chunk(2, 0)
        return self.out(torch.cat((one, other, self.first(x)), 1))


class Parallel(nn.Module):
    """Two branches from one block, and a block behind both."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.start = nn.Conv2d(3, 32, 3, padding=1), Block(False)
        self.left, self.right, self.end = Block(False), Block(False), Block(False)

    def forward(self, x):
        x = self.start(self.stem(x))
        return self.end(self.left(x) * self.right(x))


def chains(plan) -> dict[str, list[str]]:
    """The hosts of each chain, in the order of its links."""
    found: dict[str, list[str]] = {}
    for cut in sorted(plan, key=lambda cut: cut.link):
        found.setdefault(cut.chain, []).append(cut.place.host)
        assert cut.link == len(found[cut.chain]) - 1
    return found


def same(net, operated, *inputs) -> bool:
    with torch.no_grad():
        return torch.equal(net.eval()(*inputs), operated.eval()(*inputs))


@pytest.mark.parametrize("inner", ["se", "ge", "cbam"])
def test_encoders_that_do_not_feed_each_other_have_chains_of_their_own(inner):
    net, size = TwoEncoders(), (3, 32, 24)
    operation = attnsurgeon.insert(
        net, "dca", "residual-branch", attn_args={"inner": inner}, input_size=(size, size)
    )
    assert sorted(chains(operation.plan).values()) == [
        ["both.1", "both.2"],
        ["first.1", "first.2"],
    ]
    for batch in (1, 2):
        images = torch.randn(batch, *size), torch.randn(batch, *size)
        assert same(net, operation.model, *images)
    assert operation.verify().problems == ()


def test_where_two_ways_part_the_chain_goes_on_along_one_of_them():
    plan = attnsurgeon.plan(Parallel(), "dca", "residual-branch", input_size=(3, 16, 24))
    assert sorted(chains(plan).values()) == [["right", "end"], ["start", "left"]]


def test_a_network_of_one_way_has_one_chain():
    plan = attnsurgeon.plan(timm.create_model("resnet18"), "dca", "residual-branch")
    assert [len(links) for links in chains(plan).values()] == [8]


def test_operated_encoders_are_saved_and_loaded(tmp_path):
    net, size = TwoEncoders(), (3, 32, 24)
    operation = attnsurgeon.insert(net, "dca", "residual-branch", input_size=(size, size))
    operation.save(tmp_path / "out")
    again = attnsurgeon.load(tmp_path / "out", model=net)
    images = torch.randn(2, *size), torch.randn(2, *size)
    assert same(operation.model, again, *images)


@pytest.mark.slow
def test_raft_runs_with_linked_attention_in_both_of_its_encoders():
    net, size = attnsurgeon.load_model("torchvision:raft_small").eval(), (3, 128, 160)
    operation = attnsurgeon.insert(net, "dca", "residual-branch", input_size=(size, size))
    encoders = [{host.split(".")[0] for host in h} for h in chains(operation.plan).values()]
    assert sorted(encoders, key=str) == [{"context_encoder"}, {"feature_encoder"}]
    images = torch.randn(1, *size), torch.randn(1, *size)
    with torch.no_grad():
        wanted = net(*images, num_flow_updates=2)
        made = operation.model.eval()(*images, num_flow_updates=2)
    assert all(torch.equal(one, other) for one, other in zip(wanted, made, strict=True))
