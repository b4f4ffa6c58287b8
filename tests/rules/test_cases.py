"""A rule file's tests end as ok, noisy, missing or invalid, with the site and the reason."""

from __future__ import annotations

import pytest

from attnsurgeon.errors import ModelError
from attnsurgeon.rules.cases import run_tests
from attnsurgeon.rules.parse import parse_rules
from tests.rules.handmade import site

SITES = [
    site("a", "conv", channels=128, index=1),
    site("b", "conv", channels=64, index=2),
    site("c", "conv", channels=256, index=3),
]


def outcomes(expect: str, find=lambda model, args, size: SITES):
    text = f"""
version: 1
rules: [{{id: wide, match: {{site: conv, channels: ">=128"}}}}]
tests: [{{model: net, args: {{depth: 3}}, input_size: [3, 7, 5], expect: {{wide: {expect}}}}}]
"""
    return [(one.status, one.detail) for one in run_tests(parse_rules(text), find, trust=True)]


@pytest.mark.parametrize(
    "expect",
    [
        "{count: 2}",
        "{count: '1..3'}",
        "{first: a, last: c}",
        "{matches: [c, a]}",
        "{leaves: {b: too narrow}}",
        "{count: 2, first: a, last: c, matches: [a, c], leaves: {b: too narrow}}",
    ],
)
def test_what_holds_is_ok_once_with_the_count(expect):
    assert outcomes(expect) == [("ok", "2 sites")]


@pytest.mark.parametrize(
    ("expect", "failures"),
    [
        ("none", [("noisy", "takes 2 sites, not 0: a; c")]),
        ("{count: 1}", [("noisy", "takes 2 sites, not 1: a; c")]),
        ("{count: '<2'}", [("noisy", "takes 2 sites, not <2: a; c")]),
        (
            "{count: 3}",
            [("missing", "takes 2 sites, not 3; nearest: b (channels 64 is not >=128)")],
        ),
        ("{first: b}", [("missing", "b: channels 64 is not >=128")]),
        ("{first: c}", [("noisy", "a: the first site taken, which must be c")]),
        ("{last: a}", [("noisy", "c: the last site taken, which must be a")]),
        ("{last: z}", [("invalid", "z: is not a site of this network")]),
        (
            "{matches: [a, b]}",
            [
                ("missing", "b: channels 64 is not >=128"),
                ("noisy", "c: taken, but not among the expected matches"),
            ],
        ),
        ("{leaves: {c: an end}}", [("noisy", "c: taken, but must be left (an end)")]),
        ("{leaves: {z: nowhere}}", [("invalid", "z: is not a site of this network")]),
    ],
)
def test_what_does_not_hold_is_named_with_the_site(expect, failures):
    assert outcomes(expect) == failures


def test_the_network_is_asked_for_as_the_test_describes_it():
    asked = []

    def find(model, args, size):
        asked.append((model, dict(args), size))
        return SITES

    outcomes("{count: 2}", find)
    assert asked == [("net", {"depth": 3}, (3, 7, 5))]


def test_a_network_that_cannot_be_built_is_the_tests_own_fault():
    def find(model, args, size):
        raise ModelError(f"no model is called {model!r}")

    assert outcomes("{count: 2}", find) == [("invalid", "no model is called 'net'")]


def test_a_file_without_tests_has_no_outcomes():
    assert run_tests(parse_rules("version: 1\nrules: [{id: a, match: {site: act}}]"), print) == []  # pyright: ignore[reportArgumentType]
