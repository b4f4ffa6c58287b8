"""What an option's text stands for, and what cannot be read."""

import click
import pytest

from attnsurgeon.attention.registry import mechanisms
from attnsurgeon.cli.values import (
    Names,
    Pair,
    Size,
    as_mapping,
    complete_attn,
    complete_where,
    registered_names,
)
from attnsurgeon.rules.placements import shipped_names

CONTEXT = click.Context(click.Command("none"))
PARAMETER = click.Argument(["none"])


@pytest.mark.parametrize(
    ("text", "pair"),
    [
        ("reduction=8", ("reduction", 8)),
        ("rate=0.1", ("rate", 0.1)),
        ("rate=1e-4", ("rate", 0.0001)),
        ("bias=true", ("bias", True)),
        ("bias=yes", ("bias", "yes")),
        ("hidden=null", ("hidden", None)),
        ("pools=[3, 5]", ("pools", [3, 5])),
        ("pool=attention", ("pool", "attention")),
        ("text=a=b", ("text", "a=b")),
        ("text=", ("text", "")),
    ],
)
def test_a_value_is_read_as_yaml_reads_it(text, pair):
    assert Pair().convert(text, PARAMETER, CONTEXT) == pair


@pytest.mark.parametrize("text", ["reduction", "=8", "a b=3", "x=[1, 2", "x={a: b: c}"])
def test_what_is_no_pair_is_refused(text):
    with pytest.raises(click.BadParameter):
        Pair().convert(text, PARAMETER, CONTEXT)


def test_a_name_given_twice_is_refused():
    assert as_mapping((("a", 1), ("b", 2)), "--arg") == {"a": 1, "b": 2}
    with pytest.raises(click.UsageError, match="--arg a is given twice"):
        as_mapping((("a", 1), ("a", 2)), "--arg")


@pytest.mark.parametrize("text", ["3,224,192", "3x224x192", "3, 224, 192", "3\u00d7224\u00d7192"])
def test_a_size_is_numbers_with_commas_or_crosses(text):
    assert Size().convert(text, PARAMETER, CONTEXT) == (3, 224, 192)


@pytest.mark.parametrize("text", ["224", "3,0,5", "3,-4,5", "3,,5", "a,b", "", "3.5,4"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(click.BadParameter, match="channels first"):
        Size().convert(text, PARAMETER, CONTEXT)


def test_names_are_a_list_with_commas_each_once():
    assert Names().convert("se, eca,se", PARAMETER, CONTEXT) == ("se", "eca")
    with pytest.raises(click.BadParameter, match="empty name"):
        Names().convert("se,,eca", PARAMETER, CONTEXT)


def test_every_mechanism_can_be_completed_without_importing_it():
    assert registered_names() == sorted(mechanisms())


def test_completion_goes_on_after_a_comma():
    assert "se,eca" in complete_attn(CONTEXT, PARAMETER, "se,ec")
    assert complete_attn(CONTEXT, PARAMETER, "zz") == []


def test_every_placement_can_be_completed():
    assert complete_where(CONTEXT, PARAMETER, "") == [*shipped_names(), "paper"]
    assert complete_where(CONTEXT, PARAMETER, "bott") == ["bottleneck"]
