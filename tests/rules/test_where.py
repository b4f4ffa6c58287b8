"""Whatever a user gives as `where` becomes rules, or an answer with the nearest right thing."""

from __future__ import annotations

from pathlib import Path

import pytest

from attnsurgeon.errors import RuleError
from attnsurgeon.rules.match import match_rules
from attnsurgeon.rules.parse import parse_rules, write_rules
from attnsurgeon.rules.placements import shipped
from attnsurgeon.rules.where import resolve_where, select
from tests.rules.handmade import site

SITES = (site("b", "conv", index=2), site("a", "conv", index=1), site("c", "act", index=3))


def test_a_name_is_the_shipped_file_and_rules_are_themselves():
    assert resolve_where("bottleneck") is shipped("bottleneck")
    assert resolve_where(shipped("stem")) is shipped("stem")


def test_a_misspelt_name_is_answered_with_the_nearest():
    with pytest.raises(RuleError, match=r"no placement is called 'botleneck'\n.*'bottleneck'"):
        resolve_where("botleneck")


def test_paper_is_what_the_mechanism_says():
    assert resolve_where("paper", paper="downsample") is shipped("downsample")
    with pytest.raises(RuleError, match="each mechanism's own placement"):
        resolve_where("paper")


@pytest.mark.parametrize("as_path", [str, Path])
def test_a_path_is_read(tmp_path, as_path):
    (tmp_path / "mine.yaml").write_text("version: 1\nrules: [{id: a, match: {site: act}}]")
    file = resolve_where(as_path(tmp_path / "mine.yaml"))
    assert [rule.id for rule in file.rules] == ["a"]


def test_a_path_that_is_not_there_is_no_placement_but_a_missing_file(tmp_path):
    with pytest.raises(RuleError, match=r"there is no rule file bottleneck\.yaml"):
        resolve_where("bottleneck.yaml")
    with pytest.raises(RuleError, match="there is no rule file"):
        resolve_where(tmp_path / "mine")


def test_a_matcher_is_one_rule():
    (found,) = match_rules(resolve_where({"site": "conv", "last": 1}), SITES)
    assert [one.path for one in found.sites] == ["b"]


def test_a_wrong_matcher_is_refused_with_the_way_to_the_key():
    with pytest.raises(RuleError) as caught:
        resolve_where({"any": [{"site": "conv"}, {"chanels": 3}]})
    assert str(caught.value) == (
        "where['any'][1]: 'chanels' is not a matcher key; did you mean 'channels'?"
    )
    with pytest.raises(RuleError, match=r"^where: this matcher says nothing"):
        resolve_where({})
    with pytest.raises(RuleError, match=r"^where\['matches'\]: 'wide' is not in 'define'"):
        resolve_where({"matches": "wide"})


def test_a_matcher_can_be_kept_as_a_rule_file_but_a_function_cannot():
    file = resolve_where({"site": "conv", "not": {"channels": [">=3", 7]}})
    assert parse_rules(write_rules(file)) == file
    with pytest.raises(RuleError, match="a Python function cannot be written"):
        write_rules(resolve_where(lambda one: True))


def test_a_function_is_asked_for_every_site():
    (found,) = match_rules(resolve_where(lambda one: one.path != "a"), SITES)
    assert [one.path for one in found.sites] == ["b", "c"]


def test_nothing_else_is_a_where():
    with pytest.raises(RuleError, match="'where' cannot be the number 3"):
        resolve_where(3)  # pyright: ignore[reportArgumentType]


def test_select_keeps_what_matches_and_may_keep_nothing():
    assert [one.path for one in select(SITES, {"site": "conv"})] == ["a", "b"]
    assert select(SITES, {"site": "pool"}) == ()
