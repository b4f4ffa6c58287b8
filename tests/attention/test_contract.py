"""The contract itself: nothing is outside of it, and its checks can fail."""

from importlib import import_module
from pathlib import Path

import torch

from attnsurgeon.attention.registry import KINDS, mechanisms
from attnsurgeon.planning.cutting.modules import is_container, walks
from tests.attention.cases import SIZES, Case
from tests.attention.contract import contract
from tests.attention.contract.behaviour import still_after_two_steps, unsteady

FILES = [
    import_module(f"tests.attention.{file.parent.name}.test_contract")
    for file in sorted(Path(__file__).parent.glob("*/test_contract.py"))
]


def test_no_mechanism_is_outside_the_contract():
    """Neither at any of its ranks."""
    cases = {(case.card.name, case.rank) for file in FILES for case in file.CASES}
    assert cases == {(card.name, rank) for card in mechanisms().values() for rank in card.ranks}
    assert {case.card.kind for file in FILES for case in file.CASES} == set(KINDS)


def test_every_kind_runs_every_test_but_those_it_has_in_words_of_its_own():
    """Neither has a test of its own the name of one here, and runs instead."""
    found = {}
    for file in FILES:
        other = [name for name, test in contract().items() if vars(file).get(name) is not test]
        found[file.__name__.split(".")[2]] = len(other)
    assert {kind: count for kind, count in found.items() if count} == {"heads": 1, "linked": 2}


def test_the_check_for_still_parameters_can_fail():
    frozen_after_norm = torch.nn.Sequential(torch.nn.Conv2d(3, 3, 1), torch.nn.BatchNorm2d(3))
    x = torch.randn(4, 3, 5, 7, dtype=torch.float64)
    assert still_after_two_steps(frozen_after_norm.double().train(), x) == {"0.bias"}


def test_the_check_for_unsteady_operations_can_fail():
    assert unsteady(torch.nn.AdaptiveMaxPool2d(2), torch.randn(1, 3, 5, 5)) != []


def test_channels_of_the_cases_tell_the_axes_apart():
    kinds = {type(case) for file in FILES for case in file.CASES}
    assert len(kinds) == len(FILES) + 1  # what replaces a convolution: alone, and in a network
    assert all(kind.channels not in size for kind in {Case, *kinds} for size in SIZES.values())


def test_no_mechanism_walks_over_its_children():
    """More attention could then not be cut in beside it, where only a hook on it can do so."""
    modules = [
        (case.card.name, type(module).__name__)
        for file in FILES
        for case in file.CASES
        for module in case.build().modules()
        if walks(module) and not is_container(module)
    ]
    assert modules == []
