"""The small languages of a rule, against plain Python that says the same thing another way."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnsurgeon.rules.values import BranchPattern, Nth, NumberTest, Pattern, SidesTest, closest


@pytest.mark.parametrize(
    ("spelled", "passes", "fails"),
    [
        (64, [64], [63, 65]),
        ("64", [64], [63]),
        (">=128", [128, 129], [127]),
        ("<= 28", [28, 0], [29]),
        (">3", [4], [3]),
        ("<3", [2], [3]),
        ("!=7", [6, 8], [7]),
        ("64..256", [64, 100, 256], [63, 257]),
        ("5..5", [5], [4, 6]),
    ],
)
def test_a_number_test_passes_what_its_sign_says(spelled, passes, fails):
    test = NumberTest.parse(spelled)
    assert [test.holds(n) for n in passes] == [True] * len(passes)
    assert [test.holds(n) for n in fails] == [False] * len(fails)


@pytest.mark.parametrize("wrong", ["big", "=>3", ">=", "3.5", 3.5, True, None, [3], "", "9" * 5000])
def test_what_is_no_number_test_is_refused(wrong):
    with pytest.raises(ValueError, match="must be a whole number, a comparison"):
        NumberTest.parse(wrong)


def test_a_range_the_wrong_way_round_is_refused_with_the_right_way():
    with pytest.raises(ValueError, match=re.escape('"256..64" holds nothing'.replace('"', "'"))):
        NumberTest.parse("256..64")
    with pytest.raises(ValueError, match=re.escape('write "64..256"')):
        NumberTest.parse("256..64")


def test_a_count_below_zero_is_refused_but_a_stage_from_the_end_is_not():
    with pytest.raises(ValueError, match="counts from 0"):
        NumberTest.parse(-1)
    assert NumberTest.parse_signed(-1).holds(-1)


@pytest.mark.parametrize(
    ("spelled", "passes", "fails"),
    [
        (3, [(3, 3), (3,), (3, 3, 3)], [(3, 5), (5, 3), ()]),
        ("<=28", [(28, 27)], [(28, 29), (29, 28)]),
        ("1x7", [(1, 7)], [(7, 1), (1, 7, 7), (1,)]),
    ],
)
def test_every_side_must_pass_and_sides_in_order_must_be_equal(spelled, passes, fails):
    test = SidesTest.parse(spelled)
    assert [test.holds(sides) for sides in passes] == [True] * len(passes)
    assert [test.holds(sides) for sides in fails] == [False] * len(fails)


def test_sides_that_are_neither_are_refused_with_both_ways():
    with pytest.raises(ValueError, match=r'comparison.*sides such as "1x7", not \'axb\''):
        SidesTest.parse("axb")


@pytest.mark.parametrize(
    ("pattern", "passes", "fails"),
    [
        ("layer[34].*", ["layer3.0.bn3", "layer4.1"], ["layer2.0", "xlayer3.0", "layer3"]),
        ("*.bn?", ["a.bn1", "a.b.bn2"], ["a.bn10", "bn1"]),
        ("conv1", ["conv1"], ["layer1.conv1", "conv10"]),
        ("re:bn[13]$", ["layer1.0.bn3", "bn1"], ["bn2", "bn1.act"]),
        ("re:^stem", ["stem.0"], ["x.stem.0"]),
        ("BN*", ["BN2d"], ["bn2d"]),
    ],
)
def test_a_glob_is_on_the_whole_text_and_a_regular_expression_is_searched(pattern, passes, fails):
    test = Pattern.parse(pattern)
    assert [test.holds(text) for text in passes] == [True] * len(passes)
    assert [test.holds(text) for text in fails] == [False] * len(fails)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (3, "must be text, not the number 3; put it in quotes"),
        (True, "must be text, not the boolean true; put it in quotes"),
        ({}, "must be text, not a mapping"),
        (" ", "is empty"),
        ("re:[", "is not a regular expression"),
    ],
)
def test_what_is_no_pattern_is_refused(wrong, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        Pattern.parse(wrong)


@pytest.mark.parametrize(
    ("spelled", "positions"),
    [
        ("2n", [2, 4, 6, 8, 10]),
        ("2n+1", [1, 3, 5, 7, 9]),
        ("odd", [1, 3, 5, 7, 9]),
        ("even", [2, 4, 6, 8, 10]),
        ("3n-1", [2, 5, 8]),
        ("n", [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]),
        ("n+8", [8, 9, 10]),
        ("-n+3", [1, 2, 3]),
        ("-2n+5", [1, 3, 5]),
        ("3", [3]),
        (7, [7]),
        ("0n+4", [4]),
    ],
)
def test_nth_takes_the_positions_of_css(spelled, positions):
    nth = Nth.parse(spelled)
    assert [n for n in range(1, 11) if nth.holds(n)] == positions


@given(st.integers(-7, 7), st.integers(-9, 9), st.integers(1, 40))
def test_nth_agrees_with_counting_n_up_from_zero(step, offset, position):
    counted = {step * n + offset for n in range(60)}
    if not any(place >= 1 for place in counted):
        with pytest.raises(ValueError, match="selects nothing"):
            Nth.parse(f"{step}n{offset:+d}")
    else:
        assert Nth.parse(f"{step}n{offset:+d}").holds(position) == (position in counted)


@pytest.mark.parametrize("wrong", ["every other", "2m", "n2", 1.5, True, None, [2], ""])
def test_what_is_no_nth_is_refused_with_examples(wrong):
    with pytest.raises(ValueError, match=r'must be like "2n"'):
        Nth.parse(wrong)


@pytest.mark.parametrize(
    ("pattern", "passes", "fails"),
    [
        (
            "1x1 spatial 1x1",
            ["1x1 3x3 1x1", "1x1 dw3x3 1x1", "1x1 3x3 3x3 3x3 1x1", "1x1 1x7 7x1 1x1"],
            ["3x3 3x3", "dw7x7 1x1 1x1", "1x1 1x1", "1x1 3x3", "1x1 3x3 1x1 1x1", "dw1x1 3x3 1x1"],
        ),
        ("pointwise spatial pointwise", ["1x1x1 3x3x3 1x1x1"], ["dw1x1 3x3 1x1"]),
        ("dw* linear linear", ["dw7x7 linear linear"], ["dw7x7 1x1 1x1", "7x7 linear linear"]),
        ("* *", ["3x3 linear"], ["3x3", "3x3 3x3 3x3"]),
        ("spatial spatial", ["3x3 5x5", "3x3 5x5 7x7"], ["3x3", "3x3 1x1"]),
    ],
)
def test_a_branch_pattern_spells_the_whole_branch(pattern, passes, fails):
    test = BranchPattern.parse(pattern)
    assert [test.holds(kinds.split()) for kinds in passes] == [True] * len(passes)
    assert [test.holds(kinds.split()) for kinds in fails] == [False] * len(fails)


@given(
    st.lists(st.sampled_from(["spatial", "pointwise", "linear", "*"]), min_size=1, max_size=5),
    st.lists(st.sampled_from(["1x1", "3x3", "dw5x5", "linear"]), max_size=6),
)
def test_a_branch_pattern_is_the_regular_expression_it_looks_like(words, kinds):
    letters = {"1x1": "p", "3x3": "s", "dw5x5": "s", "linear": "l"}
    regex = {"spatial": "s+", "pointwise": "p", "linear": "l", "*": "."}
    expected = re.fullmatch("".join(regex[w] for w in words), "".join(letters[k] for k in kinds))
    assert BranchPattern.parse(" ".join(words)).holds(kinds) == bool(expected)


def test_a_misspelt_kind_of_convolution_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match=r"'spatail'.*did you mean 'spatial'\?"):
        BranchPattern.parse("1x1 spatail 1x1")


def test_one_slip_names_one_word_and_a_strange_word_names_all():
    assert closest("chanels", ["channels", "has", "matches"]) == "did you mean 'channels'?"
    assert closest("zzz", ["b", "a"]) == "known: a, b"
