"""What looks at the input of its block is given what enters the block."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

import attnsurgeon

SIZE = (3, 24, 32)


class PreActivation(nn.Module):
    """A block that normalises first; where it projects, branch and projection start from that."""

    def __init__(self, inside: int, width: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(inside), nn.Conv2d(inside, width, 3, padding=1)
        self.norm2, self.conv2 = nn.BatchNorm2d(width), nn.Conv2d(width, width, 3, padding=1)
        self.project = nn.Conv2d(inside, width, 1) if inside != width else None

    def forward(self, x):
        y = self.norm1(x).relu()
        shortcut = x if self.project is None else self.project(y)
        return self.conv2(self.norm2(self.conv1(y)).relu()) + shortcut

    def with_attention(self, x):
        """The same with the attention of the block's own input, written out."""
        y = self.norm1(x).relu()
        shortcut = x if self.project is None else self.project(y)
        branch = self.conv2(self.norm2(self.conv1(y)).relu())
        return self.attn(branch, x) + shortcut


@pytest.mark.parametrize("variant", ["B", "C"])
def test_spanet_looks_at_what_enters_a_block_that_normalises_first(variant):
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3, 2, 1), PreActivation(16, 32), PreActivation(32, 32), nn.Conv2d(32, 5, 1)
    ).eval()
    args = {"variant": variant}
    operated = attnsurgeon.insert(
        net, "spa", "residual-branch", attn_args=args, init="paper", input_size=SIZE
    ).model
    for parameter in operated.parameters():
        parameter.data.normal_(std=0.3)
    x = torch.randn(2, *SIZE)
    first, one, other, last = operated
    expected = last(other.with_attention(one.with_attention(first(x))))
    assert torch.equal(operated(x), expected)


def test_every_block_of_a_pre_activation_resnet_shows_its_own_input():
    plan = attnsurgeon.plan(timm.create_model("resnetv2_50"), "spa", attn_args={"variant": "B"})
    assert [cut.place.others for cut in plan] == [(("input", "0", 0),)] * 16


class Stem(nn.Module):
    """A convolution, and a block whose code is not in a module of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.conv1, self.conv2 = nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)

    def forward(self, x):
        x = self.norm(self.stem(x))
        return x + self.conv2(self.conv1(x).relu())


def test_where_the_block_has_no_module_its_input_is_where_branch_and_shortcut_part():
    (cut,) = attnsurgeon.plan(
        Stem(), "spa", "residual-branch", attn_args={"variant": "B"}, input_size=SIZE
    )
    assert cut.place.others == (("module", "norm", 0),)
