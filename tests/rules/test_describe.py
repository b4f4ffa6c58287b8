"""A matcher in one line."""

from __future__ import annotations

import pytest

from attnsurgeon.rules.describe import describe, listed
from attnsurgeon.rules.where import resolve_where


@pytest.mark.parametrize(
    ("matcher", "line"),
    [
        ({"site": "residual-branch", "channels": ">=128"}, "residual-branch, channels >=128"),
        ({"site": ["conv", "act"], "stage": [1, 2, -1]}, "conv or act, stage 1, 2 or -1"),
        ({"kernel": "1x7", "depthwise": True, "nth": "2n"}, "kernel 1x7, depthwise, nth 2n"),
        ({"depthwise": False, "first": 3}, "not depthwise, first 3"),
        ({"any": [{"site": "conv"}, {"site": "act", "stage": 1}]}, "any of (conv; act, stage 1)"),
        (
            {"not": {"inside": {"type": "SE", "not": {"name": "a"}}}},
            "not (inside (type SE, not (name a)))",
        ),
        ({"branch": "1x1 spatial 1x1"}, "branch 1x1 spatial 1x1"),
    ],
)
def test_a_matcher_reads_as_one_line(matcher, line):
    assert describe(resolve_where(matcher).rules[0].match) == line


def test_a_function_reads_by_its_name():
    def wide(one):
        return True

    assert describe(resolve_where(wide).rules[0].match) == "the function wide"


@pytest.mark.parametrize(("items", "text"), [("a", "a"), ("ab", "a or b"), ("abc", "a, b or c")])
def test_items_are_listed_with_or(items, text):
    assert listed(items) == text
