"""Arguments that a plan takes from the site: what follows, and that the user's own ones win."""

from dataclasses import replace

import pytest

from attnsurgeon.attention.registry import lookup
from attnsurgeon.errors import MechanismError

SE = lookup("se")


def halves(size, hidden):
    if len(size) == 1:
        raise MechanismError("no map", "give one")
    return {"reduction": size[0] // 2} if hidden is None else {}


SIZED = replace(SE, site_args=halves)


def test_a_card_without_such_arguments_adds_none():
    given = {"bias": False}
    args = SE.args_at((14, 10), given)
    assert args == {"bias": False}
    assert args is not given


def test_the_arguments_follow_from_the_size_and_from_other_arguments():
    assert SIZED.args_at((14, 10), {}) == {"reduction": 7}
    assert SIZED.args_at((8, 10), {"bias": False}) == {"reduction": 4, "bias": False}
    assert SIZED.args_at((8, 10), {"hidden": 5}) == {"hidden": 5}


def test_what_the_user_gave_is_never_replaced():
    assert SIZED.args_at((14, 10), {"reduction": 3}) == {"reduction": 3}


def test_a_site_that_does_not_fit_is_refused_under_the_name_of_the_mechanism():
    with pytest.raises(MechanismError, match=r"^se: no map\n  hint: give one$"):
        SIZED.args_at((196,), {})


def test_a_fact_that_may_be_unknown_has_a_default():
    def after(size, previous_channels, source_channels=None):
        return {"hidden": previous_channels or source_channels or 1}

    card = replace(SE, site_args=after)
    assert card.args_at((14, 10), {}, previous_channels=None) == {"hidden": 1}
    facts = {"previous_channels": None, "source_channels": 3}
    assert card.args_at((14, 10), {}, **facts) == {"hidden": 3}
    with pytest.raises(KeyError, match="previous_channels"):
        card.args_at((14, 10), {})


def test_arguments_that_do_not_exist_are_left_to_create_attention():
    assert SIZED.args_at((14, 10), {"bais": False}) == {"reduction": 7, "bais": False}
