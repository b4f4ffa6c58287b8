"""Signatures and values -> complete arguments, on constructors made for the purpose."""

from __future__ import annotations

from typing import Any, Literal

import pytest

from attnsurgeon.attention.arguments import REQUIRED, complete, defaults
from attnsurgeon.errors import MechanismError


def build(
    channels: int,
    *,
    rank: int = 2,
    classes: int,
    pools: tuple[int, ...] = (1, 2, 4),
    mode: Literal["hard", "soft"] = "soft",
    hidden: int | None = None,
    lam: float = 0.1,
    name: str = "x",
) -> Any:
    """Stands for a mechanism."""


def test_defaults_are_the_users_arguments_in_order():
    assert list(defaults(build)) == ["classes", "pools", "mode", "hidden", "lam", "name"]
    assert defaults(build)["classes"] is REQUIRED
    assert defaults(build)["pools"] == (1, 2, 4)


def test_what_is_not_given_is_filled_in():
    full = complete(build, {"classes": 7})
    assert full == {
        "classes": 7,
        "pools": (1, 2, 4),
        "mode": "soft",
        "hidden": None,
        "lam": 0.1,
        "name": "x",
    }


def test_a_list_becomes_a_tuple():
    assert complete(build, {"classes": 7, "pools": [3, 5]})["pools"] == (3, 5)


def refusal(**given):
    with pytest.raises(MechanismError) as caught:
        complete(build, {"classes": 7} | given)
    return caught.value


def test_a_missing_argument_is_named():
    with pytest.raises(MechanismError, match="classes is missing"):
        complete(build, {})


@pytest.mark.parametrize("name", ["rank", "channels", "self"])
def test_what_is_not_for_users_is_unknown_to_them(name):
    assert f"no argument '{name}'" in refusal(**{name: 3}).what


@pytest.mark.parametrize("pools", [[], [1, 0], [1, "2"], 3, (1.0,)])
def test_a_list_has_members_of_the_right_type(pools):
    assert "is not a list, each a whole number from 1 up" in refusal(pools=pools).what


def test_a_choice_is_one_of_the_words():
    assert complete(build, {"classes": 7, "mode": "hard"})["mode"] == "hard"
    assert refusal(mode="firm").what == "mode='firm' is not one of 'hard', 'soft'"


def test_an_optional_number_may_be_none_or_a_number():
    assert complete(build, {"classes": 7, "hidden": None})["hidden"] is None
    assert complete(build, {"classes": 7, "hidden": 5})["hidden"] == 5
    assert "a whole number from 1 up or none" in refusal(hidden="5").what


@pytest.mark.parametrize("lam", [True, "1", float("inf"), None])
def test_a_number_is_finite_and_no_truth_value(lam):
    assert "is not a finite number" in refusal(lam=lam).what


def test_the_hint_shows_the_default():
    assert refusal(lam="1").hint == "the default is 0.1"


def test_a_text_is_a_text():
    assert "is not a text" in refusal(name=3).what
