"""Blocks: those that add nothing back are found beside those that do, or because they repeat."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import attnsurgeon
from attnsurgeon.errors import SurgeonError
from tests.nets.unadded import (
    Dense,
    Fire,
    First,
    Gated,
    Inverted,
    Pooled,
    Shuffle,
    Stage,
    Unit,
    Whole,
)
from tests.surgery import paths, ready, surveyed

SIZE = (3, 46, 38)


def ends(net: nn.Module) -> list[str]:
    return paths(surveyed(net, SIZE), "block-branch")


def convolutions(net: nn.Module) -> list[str]:
    return paths(surveyed(net, SIZE), "block-conv")


def outputs_of(net: nn.Module) -> list[str]:
    return paths(surveyed(net, SIZE), "block")


def test_what_changes_the_shape_is_a_block_like_its_fellows_that_add():
    net = Whole(Inverted(8, 8), Inverted(8, 12, 2), Inverted(12, 12), channels=8, out=12)
    assert ends(net) == [f"features.{i}.bn3" for i in range(3)]
    assert outputs_of(net) == ["features.0:add", "features.1.bn3", "features.2:add"]
    assert convolutions(net) == [f"features.{i}.conv2" for i in range(3)]
    assert paths(surveyed(net, SIZE), "residual-branch") == ["features.0.bn3", "features.2.bn3"]


def test_the_computed_path_ends_where_that_of_its_fellows_does():
    blocks = (Inverted(8, 8, act=True), Inverted(8, 12, 2, act=True), Inverted(12, 12, act=True))
    net = Whole(*blocks, channels=8, out=12)
    assert ends(net) == [f"features.{i}.bn3" for i in range(3)]  # before the activation
    assert outputs_of(net) == [f"features.{i}.act" for i in range(3)]


def test_another_class_is_a_block_where_it_stands_among_blocks():
    net = Whole(First(8, 12), Inverted(12, 12), Inverted(12, 12), channels=8, out=12)
    assert ends(net)[0] == "features.0.bn2"
    apart = Whole(Inverted(8, 8), Inverted(8, 8), channels=8, out=8)
    apart.stem = nn.Sequential(First(3, 8), nn.ReLU())
    assert ends(apart) == ["features.0.bn3", "features.1.bn3"]


def test_a_single_convolution_among_blocks_is_none():
    row = (Inverted(8, 8), nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU()), Gated(8), Inverted(8, 8))
    assert ends(Whole(*row, channels=8, out=8)) == ["features.0.bn3", "features.3.bn3"]


def test_where_nothing_is_added_blocks_are_what_repeats():
    net = Whole(Unit(8, 8), Unit(8, 12, 2), Unit(12, 12), channels=8, out=12)
    assert ends(net) == outputs_of(net) == [f"features.{i}:relu#2" for i in range(3)]
    assert convolutions(net) == [f"features.{i}.conv1" for i in range(3)]


def test_what_does_not_repeat_is_no_block():
    assert ends(Whole(Unit(8, 8), Fire(8), channels=8, out=8)) == []
    assert ends(Whole(Gated(8), Gated(8), Gated(8), channels=8, out=8)) == []  # one convolution
    row = [nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()] * 3
    assert ends(Whole(*row, channels=8, out=8)) == []


def test_a_module_of_another_kind_beside_blocks_is_one_too():
    net = Whole(Unit(8, 8), Unit(8, 8), Fire(8), channels=8, out=8)
    assert ends(net) == ["features.0:relu#2", "features.1:relu#2", "features.2:cat"]


def test_of_nested_modules_blocks_are_those_that_repeat_most():
    stages = (Stage(Unit(8, 8), Unit(8, 8)), Stage(Unit(8, 8), Unit(8, 8)))
    net = Whole(*stages, channels=8, out=8)
    assert ends(net) == [f"features.{i}.units.{j}:relu#2" for i in range(2) for j in range(2)]


def test_plain_containers_are_alike_when_what_they_hold_is():
    def pair() -> nn.Module:
        convs = [nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.ReLU()]
        return nn.Sequential(*convs)

    assert ends(Whole(pair(), pair(), channels=8, out=8)) == ["features.0.3", "features.1.3"]
    other = nn.Sequential(nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1), nn.ReLU())
    assert ends(Whole(pair(), other, channels=8, out=8)) == []


def test_a_pooling_at_the_end_is_no_part_of_the_block():
    net = Whole(Pooled(8, 8), Pooled(8, 12), channels=8, out=12)
    assert ends(net) == outputs_of(net) == ["features.0:relu#2", "features.1:relu#2"]


def test_of_what_is_concatenated_with_the_input_the_computed_path_is_the_other():
    net = Whole(Shuffle(8, 2), Shuffle(8), Shuffle(8), channels=8, out=8)
    assert ends(net) == [f"features.{i}.heavy.4" for i in range(3)]
    assert convolutions(net) == [f"features.{i}.heavy.2" for i in range(3)]
    assert outputs_of(net) == [f"features.{i}:reshape" for i in range(3)]


def test_where_both_halves_are_always_computed_the_block_ends_behind_them():
    net = Whole(Fire(8), Fire(8), channels=8, out=8)
    assert ends(net) == ["features.0:cat", "features.1:cat"]
    assert convolutions(net) == []  # one of two side by side is not the last


def test_a_layer_that_is_concatenated_with_its_input_is_a_block():
    net = Whole(Dense(8, 4, 2), Dense(16, 4, 2), channels=8, out=24)
    assert ends(net) == [f"features.{i}.layers.{j}:relu#2" for i in range(2) for j in range(2)]


def test_the_input_of_a_block_that_adds_nothing_is_known():
    net = Whole(Inverted(8, 8), Inverted(8, 12, 2), channels=8, out=12)
    net = ready(net)
    args = {"variant": "B", "reduction": 4}
    operation = attnsurgeon.insert(net, "spa", "block-branch", attn_args=args, input_size=SIZE)
    seen = [cut.attn_args["source_channels"] for cut in operation.plan]
    assert seen == [8, 8]
    x = torch.randn(2, *SIZE)
    assert torch.equal(operation.model.eval()(x), net(x))
    with pytest.raises(SurgeonError, match="not the end of a residual block"):
        attnsurgeon.plan(net, "spa", "stem", attn_args=args, input_size=SIZE)
