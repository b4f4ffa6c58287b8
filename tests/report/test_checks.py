"""What is said of a verification: every check has a good and a bad sentence."""

import pytest

from attnsurgeon.report.checks import sentences
from tests.report.records import VERIFIED

FULL = {"stuck": (), "round_trip": True}


def said(**changes):
    return list(sentences({**VERIFIED, **changes}, "x"))


def test_a_quick_verification_that_holds_is_all_good():
    found = said()
    assert [went for went, _ in found] == ["good"] * 4
    assert found[0][1] == (
        "outputs bit-equal at 2x3x96x64 and 2x3x64x128, with every norm randomised"
    )
    assert found[1][1] == "214 of 214 intermediate values bit-equal"


def test_a_full_verification_says_three_things_more():
    assert len(said(**FULL)) == len(said()) + 3
    assert {went for went, _ in said(**FULL)} == {"good"}


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"identity": False, "relative_diff": 0.25}, "0.25 of the largest"),
        ({"values_equal": 213}, "213 of 214"),
        ({"missing_keys": ("fc.weight",)}, "fc.weight"),
        ({"unexpected_keys": ("stray",)}, "stray"),
        ({"reordered": True}, "another order"),
        ({"dead": ("layer1.0.attn",)}, "never run: layer1.0.attn"),
        ({**FULL, "still": ("layer1.0.attn",)}, "change nothing"),
        ({**FULL, "stuck": ("layer1.0.attn.w",)}, "do not move"),
        ({**FULL, "round_trip": False}, "something else"),
    ],
)
def test_each_thing_that_is_wrong_has_its_own_bad_sentence(changes, word):
    bad = [text for went, text in said(**changes) if went == "bad"]
    assert len(bad) == 1
    assert word in bad[0]


def test_outputs_that_move_are_no_fault_of_an_attention_that_starts_as_published():
    found = said(init="paper", identity=False, relative_diff=0.4, top1_agreement=0.5)
    assert found[0] == (
        "note",
        "outputs move by 0.4 of the largest at 2x3x96x64 and 2x3x64x128; top-1 agreement 50%; "
        "init=paper starts as published",
    )
    assert not any("intermediate" in text for _, text in found)


def test_what_could_not_be_checked_is_said():
    assert ("note", "learning not tried: no targets") in said(
        notes=("learning not tried: no targets",)
    )


def test_parameters_excused_by_their_card_are_named():
    assert ("note", "cannot learn in training mode, see the card: a.bias") in said(
        **FULL, excused=("a.bias",)
    )
