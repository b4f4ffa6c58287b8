"""A network of signals on the command line, from its file to a saved folder and back."""

from pathlib import Path

import pytest
import torch

from attnsurgeon import load
from tests.cli.command import attnsurgeon

NET = f"{Path(__file__).parents[1] / 'nets' / 'families' / 'signals.py'}:ResNet"
SIZE = ("--input-size", "3,256")


def test_a_network_of_signals_is_planned_operated_and_loaded(tmp_path):
    argv = [NET, "--attn", "eca", "--where", "residual-branch", *SIZE]
    planned = attnsurgeon("plan", *argv, "--json").json()
    done = attnsurgeon("insert", *argv, "-o", tmp_path / "out", "--json").json()
    assert [site["channels"] for site in done["sites"]] == [8, 8, 16, 16, 24, 24]
    assert done["sites"] == planned["sites"]
    assert done["verification"]["identity"]
    model = load(tmp_path / "out", trust=True)
    assert model(torch.randn(2, 3, 130)).shape == (2, 5)


def test_inspect_names_stages_and_lengths():
    out = attnsurgeon("inspect", NET, *SIZE).out
    assert "encoder  stem           stem.3" in out
    assert "stage 3, head  layer3.1:relu" in out
    sites = attnsurgeon("inspect", NET, *SIZE, "--role", "stage", "--json").json()["sites"]
    assert [(site["layout"], site["resolution"]) for site in sites] == [
        ("NCL", [64]),
        ("NCL", [32]),
        ("NCL", [16]),
    ]


@pytest.mark.parametrize(
    ("attn", "why"),
    [("triplet", "triplet is not for signals"), ("fca", "its frequencies are pairs")],
)
def test_a_mechanism_of_two_axes_is_refused_in_a_sentence(attn, why):
    done = attnsurgeon("plan", NET, "--attn", attn, "--where", "residual-branch", *SIZE)
    assert done.code == 4
    assert why in done.err
    assert "Traceback" not in done.err


def test_a_card_says_for_which_ranks_a_mechanism_is_and_why_not_for_signals():
    assert "gate, rank 1, 2, 3" in attnsurgeon("attn", "show", "se").out
    coord = attnsurgeon("attn", "show", "coord").out
    assert "gate, rank 2, 3" in coord
    assert "a signal has no other" in coord
