"""What is tried of a mechanism: each thing can fail, and a sound mechanism fails none."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from attnsurgeon import contract
from attnsurgeon.attention.own.card import own_card
from attnsurgeon.attention.registry import lookup
from attnsurgeon.contract import check_mechanism
from attnsurgeon.errors import MechanismError, UsageError
from tests.attention.own import mechanisms as own

SLOW = ("torch.compile", "torch.export", "ONNX")


@pytest.fixture(autouse=True)
def quick(monkeypatch, request):
    if "slow" not in request.keywords:
        tests = tuple(test for test in contract._TESTS if test[0] not in SLOW)
        monkeypatch.setattr(contract, "_TESTS", tests)


def found(thing, **args) -> dict[str, bool | None]:
    card = lookup(thing) if isinstance(thing, str) else own_card("mine", thing)
    return {one.name: one.ok for one in check_mechanism(card, args, channels=24).findings}


@pytest.mark.parametrize("thing", [own.Gate, own.Vector, own.Mask, own.Map, own.Fuse])
def test_a_sound_mechanism_fails_nothing_but_the_other_ranks(thing):
    said = found(thing)
    assert [name for name, ok in said.items() if ok is not True] == ["rank 1", "rank 3"]


def test_one_of_the_catalogue_fails_nothing():
    assert [name for name, ok in found("cbam", reduction=8).items() if ok is not True] == []


def test_a_mechanism_of_volumes_is_tried_on_volumes():
    card = own_card("mine", own.Volume)
    assert check_mechanism(card, channels=24).rank == 3
    assert [name for name, ok in found(own.Volume).items() if ok is not True] == [
        "rank 1",
        "rank 2",
    ]


def test_a_mechanism_of_signals_is_tried_on_signals():
    card = own_card("mine", own.Signal)
    made = check_mechanism(card, channels=24)
    assert (made.rank, made.ok, made.params) == (1, True, 24 * 3 + 24)
    assert [f.name for f in made.findings if f.ok is not True] == ["rank 2", "rank 3"]


def test_the_figures_are_those_of_the_mechanism():
    made = check_mechanism(own_card("mine", own.Gate), {"ratio": 3}, channels=24)
    assert (made.ok, made.params, made.channels, made.kind) == (
        True,
        2 * 24 * 8 + 8 + 24,
        24,
        "gate",
    )
    details = {one.name: one.detail for one in made.findings}
    assert details["takes and returns"] == "a gate (2, 24, 1, 1), multiplied with the map"


class Mixes(own.Map):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + x.mean(0, keepdim=True)


class Overflows(own.Map):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * torch.exp(x.abs().amax())


class Detaches(own.Map):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.detach())


class Counts(own.Map):
    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.register_buffer("runs", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.runs += 1
        return super().forward(x)


class Throws(own.Map):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(super().forward(x), 0.5, training=True)


class Forgets(own.Map):
    """Keeps what it learned where no state dict finds it."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.hidden = torch.randn(channels, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.hidden


class Norms(nn.Module):
    """Cannot train on a single image of one position."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc, self.norm = nn.Linear(channels, channels), nn.BatchNorm1d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.norm(self.fc(x.mean((2, 3)))))


class Single(own.Map):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.float()).float()


@pytest.mark.parametrize(
    ("thing", "failing"),
    [
        (Mixes, "images apart"),
        (Overflows, "finite"),
        (Detaches, "gradients"),
        (Counts, "buffers kept in eval"),
        (Throws, "deterministic"),
        (Forgets, "state dict"),
        (Norms, "a single image in training"),
        (own.InPlace, "input kept"),
        (own.LooksAtValues, "priced without weights"),
        (own.LooksAtValues, "torch.fx"),
        (own.NotAlone, "a single image"),
        (Single, "float64"),
    ],
)
def test_each_thing_can_fail(thing, failing):
    assert found(thing)[failing] is False


def test_what_is_built_for_one_size_is_said_to_be():
    said = found(own.Tied)
    assert (said["several sizes"], said["odd sides"]) == (False, True)


def test_widths_that_it_cannot_have_are_named():
    class Grouped(own.Map):
        def __init__(self, channels: int) -> None:
            super().__init__(channels)
            self.more = nn.Conv2d(channels, channels, 1, groups=8 if channels != 40 else 7)

    findings = check_mechanism(own_card("mine", Grouped), channels=24).findings
    (widths,) = [one for one in findings if one.name == "common widths"]
    assert (widths.ok, widths.needed) == (False, False)
    assert "C = 40," in widths.detail


def test_what_is_needed_decides():
    assert not check_mechanism(own_card("mine", Throws), channels=24).ok
    assert check_mechanism(own_card("mine", Mixes), channels=24).ok
    problems = check_mechanism(own_card("mine", own.Halves), channels=24).problems
    assert problems == ("runs: mine makes (2, 24, 7, 5) of (2, 24, 14, 10)",)


def test_what_cannot_be_tried_is_refused():
    with pytest.raises(MechanismError, match="needs 'heads'"):
        check_mechanism(own_card("mine", own.NeedsHeads))
    with pytest.raises(UsageError, match="is a conv"):
        check_mechanism(lookup("sk"))


@pytest.mark.slow
def test_it_is_compiled_and_exported():
    said = found(own.Gate)
    assert [said[name] is not False for name in SLOW] == [True, True, True]
    assert found(own.LooksAtValues)["torch.export"] is False
