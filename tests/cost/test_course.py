"""The course of a forward: the MACs of each part, by hand, and where on it the sites are."""

from __future__ import annotations

import torch
from torch import nn

from attnsurgeon.cost.course import course
from attnsurgeon.cost.weighing import weigh
from attnsurgeon.sites.analysis import analyse
from tests.cli.tiny import Net
from tests.nets.families.decoders import UNetOfModules


def of(model, size, sites=()):
    found = analyse(model, size)
    weight = weigh(model, found.traced.form.at_batch(1))
    return course(found, weight, sites), weight, found


# Of the Net at 3x40x24: a stem 3 -> 32 at stride 2, blocks 32 -> 11 -> 32 at 20x12, a convolution
# 32 -> 48 at stride 2, a block 48 -> 11 -> 48 at 10x6. A norm counts as two an element.
STEM = 3 * 32 * 9 * 240
BLOCK = (32 * 11 * 9 + 11 * 32 * 9 + 2 * 32) * 240
DOWN = 32 * 48 * 9 * 60
LATE = (48 * 11 * 9 + 11 * 48 * 9 + 2 * 48) * 60
HEAD = 48 * 7
PATHS = ["blocks.0.norm", "blocks.1.norm", "late.norm"]


def test_the_macs_of_each_part_are_those_that_are_spent_in_it():
    made, weight, _ = of(Net(), (3, 40, 24))
    assert [(one.part, one.roles, one.path, one.channels) for one in made.parts] == [
        ("encoder", ("stem",), "stem", 32),
        ("encoder", ("stage",), "blocks.1:relu#2", 32),
        ("encoder", ("stage", "head"), "late:relu#2", 48),
        ("output", (), "", None),
    ]
    assert [one.macs for one in made.parts] == [STEM, 2 * BLOCK, DOWN + LATE, HEAD]
    assert made.elsewhere == 0
    assert sum(one.macs for one in made.parts) == weight.macs


def test_a_site_lies_behind_what_was_computed_before_it():
    made, _, _ = of(Net(), (3, 40, 24), [*PATHS, "nowhere"])
    assert made.at == {
        "blocks.0.norm": STEM + BLOCK,
        "blocks.1.norm": STEM + 2 * BLOCK,
        "late.norm": STEM + 2 * BLOCK + DOWN + LATE,
    }


def test_a_decoder_is_a_part_of_its_own_behind_the_encoder():
    made, weight, _ = of(UNetOfModules(transposed=False), (3, 64, 64))
    parts = [one.part for one in made.parts]
    assert parts == sorted(parts, key=["encoder", "decoder", "output"].index)
    assert parts.count("decoder") == 3
    assert sum(one.macs for one in made.parts) + made.elsewhere == weight.macs
    assert [one.channels for one in made.parts if one.part == "decoder"] == [32, 16, 8]


class Twice(Net):
    """The first block runs twice: half of its work belongs to either call."""

    def forward(self, x):
        x = self.blocks[0](self.blocks[0](self.stem(x)))
        return self.fc(self.late(self.down(x)).mean((2, 3)))


def test_a_module_that_runs_twice_spends_half_of_its_work_each_time():
    made, _, found = of(Twice(), (3, 40, 24))
    calls = [site.path for site in found.sites if site.path.startswith("blocks.0.norm")]
    made, _, _ = of(Twice(), (3, 40, 24), calls)
    assert [made.at[path] for path in calls] == [STEM + BLOCK, STEM + 2 * BLOCK]


class Loose(nn.Module):
    """The product of the root's own forward lies in no part."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Net()
        self.weight = nn.Parameter(torch.ones(7, 5))

    def forward(self, x):
        return self.net(x) @ self.weight


def test_what_spans_several_parts_is_told_apart():
    made, weight, _ = of(Loose(), (3, 40, 24))
    assert made.elsewhere == 7 * 5
    assert sum(one.macs for one in made.parts) + made.elsewhere == weight.macs


def test_a_network_without_parts_has_no_course():
    flat = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 5))
    found = analyse(flat, (3, 8, 8))
    made = course(found, weigh(flat, found.traced.form.at_batch(1)), ["1"])
    assert made.parts == ()
    assert made.at["1"] == 3 * 8 * 8 * 5
