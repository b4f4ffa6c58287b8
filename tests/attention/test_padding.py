"""Padding is told in numbers: `padding="same"` is an operator that quantisers do not know."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from attnsurgeon.attention.registry import create_attention, mechanisms
from attnsurgeon.attention.shapes import CONVOLUTIONS
from tests.attention.cases import stir
from tests.looking.operated import operated

SIZES = {1: (13,), 2: (11, 7), 3: (3, 7, 5)}
PADDED = {"cbam": (1, 2, 3), "gam": (1, 2, 3), "triplet": (2, 3)}


def overloads(module: nn.Module, x: torch.Tensor) -> set[str]:
    """The operators of the convolutions in an exported graph."""
    nodes = torch.export.export(module, (x,)).graph.nodes
    return {str(node.target) for node in nodes if str(node.target).startswith("aten.conv")}


@pytest.mark.slow
@pytest.mark.parametrize("name", mechanisms())
def test_no_exported_graph_has_a_convolution_that_is_padded_by_a_word(name):
    net = operated(name).float().eval()
    found = overloads(net, torch.randn(2, 3, 26, 22))
    assert "aten.conv2d.default" in found
    assert found <= {"aten.conv1d.default", "aten.conv2d.default"}


def test_a_convolution_that_is_padded_by_a_word_is_seen():
    net = nn.Conv2d(3, 5, 3, padding="same")
    assert overloads(net, torch.randn(2, 3, 7, 5)) == {"aten.conv2d.padding"}
    attention = create_attention("cbam", 16).eval()
    assert overloads(attention, torch.randn(2, 16, 7, 5)) == {"aten.conv2d.default"}


@pytest.mark.parametrize(("name", "rank"), [(n, r) for n, ranks in PADDED.items() for r in ranks])
def test_the_numbers_are_those_of_the_word(name, rank):
    module = stir(create_attention(name, 16, rank=rank)).eval()
    by_word = copy.deepcopy(module)
    for conv in by_word.modules():
        if isinstance(conv, CONVOLUTIONS) and max(conv.kernel_size) > 1:
            conv.padding = "same"
    x = torch.randn(2, 16, *SIZES[rank])
    for value in (x, x.movedim(1, -1).contiguous().movedim(-1, 1)):
        assert torch.equal(by_word(value), module(value))
