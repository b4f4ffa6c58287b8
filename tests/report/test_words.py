"""Numbers as people read them."""

import pytest

from attnsurgeon.report import words


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0 %"),
        (None, "-"),
        (9.9, "+9.90 %"),
        (-9.9, "-9.90 %"),
        (1234.5, "+1,234.50 %"),
        (0.27172, "+0.27 %"),
        (0.01, "+0.01 %"),
        (0.00034, "+0.00034 %"),
        (-0.00034, "-0.00034 %"),
        (0.0000626, "+0.000063 %"),
        (0.00996, "+0.010 %"),
    ],
)
def test_a_small_percentage_keeps_two_digits_instead_of_becoming_zero(value, text):
    assert words.percent(value) == text


def test_counts_have_separators_and_changes_a_sign():
    assert words.count(25557032) == "25,557,032"
    assert words.count(None) == "-"
    assert (words.change(86), words.change(-1200), words.change(0)) == ("+86", "-1,200", "0")


@pytest.mark.parametrize(
    ("size", "text"),
    [(812, "812 bytes"), (17_200, "17.2 kB"), (102_487_040, "102.5 MB"), (3_400_000_000, "3.4 GB")],
)
def test_a_size_on_disk_is_in_the_unit_that_fits(size, text):
    assert words.memory(size) == text
    assert words.memory_change(size) == f"+{text}"
    assert words.memory_change(-size) == f"-{text}"
    assert words.memory_change(0) == "0"


def test_a_long_list_says_how_many_it_leaves_out():
    assert words.listed("abc", at_most=3) == "a, b, c"
    assert words.listed("abcde", at_most=3) == "a, b, c, and 2 more"


def test_one_is_no_plural():
    assert words.several(1, "site") == "1 site"
    assert words.several(1600, "site") == "1,600 sites"
    assert words.several(0, "site") == "0 sites"


def test_a_size_without_sides_is_a_dash():
    assert words.size((3, 224, 192), "x") == "3x224x192"
    assert words.size((), "x") == words.size(None, "x") == "-"


@pytest.mark.parametrize(
    ("number", "said"),
    [(0, "0"), (999, "999"), (1_000, "1.00 k"), (25_557_032, "25.6 M"), (4_111_514_624, "4.11 G"),
     (677_000_000, "677 M"), (2_500_000_000_000, "2.50 T")],
)  # fmt: skip
def test_a_number_of_three_digits(number, said):
    assert words.rounded(number) == said
