"""Values that go through JSON and come back."""

from __future__ import annotations

import json

import pytest

from attnsurgeon.plain import from_plain, to_plain


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        7,
        0.1,
        "text",
        [],
        (),
        (1, (2, [3, (4,)])),
        {"pools": (1, 3), "sizes": [[2], (5,)], "empty": {}},
        {"tuple": 1, "and": 2},
    ],
)
def test_a_value_comes_back_with_its_tuples_and_lists(value):
    back = from_plain(json.loads(json.dumps(to_plain(value))))

    assert back == value
    assert repr(back) == repr(value)  # (1,) == (True,), but their texts differ


@pytest.mark.parametrize(
    "value",
    [int, len, {1: 2}, {"deep": [object()]}, {"tuple": []}, 1j, float("nan"), 1e999, 2**63],
)
def test_a_value_that_json_cannot_hold_is_refused_by_name(value):
    with pytest.raises(TypeError, match=r"class|function|mapping|object|complex|1j|nan|inf|922"):
        to_plain(value)
