"""What a matcher takes and, for everything it leaves, the first reason in words."""

from __future__ import annotations

import pytest

from attnsurgeon.errors import CheckFailed, RuleError
from attnsurgeon.rules.match import Match, Refusal, match_rules, require_counts
from attnsurgeon.rules.parse import parse_rules
from tests.rules.handmade import matching, modules, reason, site, taken

BOTTLENECK = site(
    "layer3.1.bn3",
    "norm",
    "residual-branch",
    type="BatchNorm2d",
    channels=1024,
    shape=(2, 1024, 16, 14),
    stride=16.0,
    stage=3,
    branch=("1x1", "3x3", "1x1"),
    inside=modules(("layer3.1", "Bottleneck"), ("layer3", "Sequential"), ("", "ResNet")),
    follows=("layer3.1.conv3",),
    precedes=("layer3.1:add",),
)
CONV = site(
    "layer3.1.conv3",
    "conv",
    type="Conv2d",
    channels=1024,
    shape=(2, 1024, 16, 14),
    stage=3,
    kernel=(1, 7),
    conv_stride=(2, 2),
    groups=32,
    depthwise=False,
    has=modules(("layer3.1.conv3.norm", "BatchNorm2d")),
    precedes=("layer3.1.bn3",),
)
ADD = site("layer3.1:add", "residual-add", type="add", stage=3, follows=("layer3.1.bn3", "nosite"))
LAST = site("layer4.0.act", "act", type="ReLU", stage=4, layout=None, channels=None, stride=None)
ALL = (BOTTLENECK, CONV, ADD, LAST)


@pytest.mark.parametrize(
    ("matcher", "of"),
    [
        ({"site": "residual-branch"}, [BOTTLENECK]),
        ({"site": ["conv", "act"]}, [CONV, LAST]),
        ({"name": "layer3.*.bn3"}, [BOTTLENECK]),
        ({"name": ["re:conv", "re:act$"]}, [CONV, LAST]),
        ({"type": "BatchNorm?d"}, [BOTTLENECK]),
        ({"stage": -1}, [LAST]),
        ({"stage": -2}, [BOTTLENECK, CONV, ADD]),
        ({"stage": [4, 7]}, [LAST]),
        ({"stage": ">=-1"}, [LAST]),
        ({"channels": ">=1024"}, [BOTTLENECK, CONV]),
        ({"channels": "60..70"}, [ADD]),
        ({"resolution": "<=16"}, [BOTTLENECK, CONV]),
        ({"resolution": "16x14"}, [BOTTLENECK, CONV]),
        ({"stride": 16}, [BOTTLENECK]),
        ({"kernel": "1x7"}, [CONV]),
        ({"conv_stride": 2}, [CONV]),
        ({"groups": ">1"}, [CONV]),
        ({"depthwise": False}, [CONV]),
        ({"branch": "1x1 spatial 1x1"}, [BOTTLENECK]),
        ({"layout": "NCHW"}, [BOTTLENECK, CONV, ADD]),
        ({"any": [{"site": "conv"}, {"site": "act"}]}, [CONV, LAST]),
        ({"all": [{"channels": 1024}, {"site": "norm"}]}, [BOTTLENECK]),
        ({"not": {"channels": 1024}}, [ADD, LAST]),
        ({"inside": {"type": "Bottleneck"}}, [BOTTLENECK]),
        ({"inside": {"type": "ResNet", "name": "?*"}}, []),
        ({"inside": {"any": [{"name": "layer3"}, {"type": "X"}]}}, [BOTTLENECK]),
        ({"inside": {"all": [{"name": "layer3"}, {"type": "ResNet"}]}}, []),
        ({"inside": {"not": {"type": "[BS]*"}}}, [BOTTLENECK]),
        ({"has": {"type": "BatchNorm2d"}}, [CONV]),
        ({"follows": {"site": "conv", "kernel": "1x7"}}, [BOTTLENECK]),
        ({"precedes": {"site": "residual-add"}}, [BOTTLENECK]),
        ({"follows": {"follows": {"site": "conv"}}}, [ADD]),
        ({"site": "conv", "channels": 7}, []),
    ],
)
def test_a_matcher_takes_these_sites_and_leaves_the_others(matcher, of):
    assert taken(matcher, *ALL) == [one.path for one in of]


@pytest.mark.parametrize(
    ("matcher", "one", "said"),
    [
        ({"site": "conv"}, BOTTLENECK, "its roles are norm, residual-branch, not conv"),
        ({"name": ["a", "b", "c"]}, CONV, "name 'layer3.1.conv3' is not a, b or c"),
        ({"type": "Conv2d"}, BOTTLENECK, "type 'BatchNorm2d' is not Conv2d"),
        ({"stage": -1}, CONV, "stage 3 of 4 is not -1"),
        ({"stage": 1}, site("a", stage=None), "stage is unknown"),
        ({"channels": ">=128"}, ADD, "channels 67 is not >=128"),
        ({"channels": 3}, LAST, "channels are unknown"),
        ({"resolution": "<=28"}, ADD, "resolution 29x23 is not <=28"),
        ({"resolution": "<=28"}, LAST, "has no known spatial sides"),
        ({"resolution": ">=1"}, site("fc", layout="NC", shape=(2, 67)), "has no known spatial"),
        ({"stride": 8}, LAST, "stride is unknown"),
        ({"stride": 4}, ADD, "stride 8 is not 4"),
        ({"kernel": 3}, CONV, "kernel 1x7 is not 3"),
        ({"kernel": 3}, ADD, "is not a convolution"),
        ({"groups": 1}, CONV, "groups 32 is not 1"),
        ({"depthwise": True}, CONV, "is not depthwise"),
        ({"depthwise": False}, site("a", depthwise=True), "is depthwise"),
        ({"depthwise": True}, ADD, "is not a convolution"),
        ({"branch": "3x3"}, BOTTLENECK, "its branch runs '1x1 3x3 1x1', not 3x3"),
        ({"branch": "3x3"}, CONV, "is not the end of a residual branch"),
        ({"layout": "NLC"}, LAST, "layout unknown is not NLC"),
        (
            {"any": [{"site": "act"}, {"stage": 9}]},
            CONV,
            "none of 2: its roles are conv, not act; ",
        ),
        ({"all": [{"site": "conv"}, {"stage": 9}]}, CONV, "stage 3 of 4 is not 9"),
        ({"not": {"site": "conv"}}, CONV, "is excluded by not (conv)"),
        ({"inside": {"type": "X"}}, BOTTLENECK, "is inside no module with (type X)"),
        ({"has": {"type": "X"}}, CONV, "has no module with (type X)"),
        ({"follows": {"site": "act"}}, BOTTLENECK, "follows no site with (act)"),
        ({"precedes": {"site": "act"}}, LAST, "precedes no site with (act)"),
        ({"channels": 7, "site": "act"}, CONV, "its roles are conv, not act"),
    ],
)
def test_a_site_that_is_left_says_why_in_words(matcher, one, said):
    assert reason(matcher, one, *(other for other in ALL if other is not one)).startswith(said)


def test_strides_that_are_not_whole_are_rounded():
    assert taken({"stride": 14}, site("a", stride=14.2), site("b", stride=14.6)) == ["a"]


ROW = tuple(site(f"s{n}", "conv", index=n) for n in range(1, 8))


@pytest.mark.parametrize(
    ("choice", "numbers"),
    [
        ({"nth": "2n"}, [2, 4, 6]),
        ({"nth": "odd"}, [1, 3, 5, 7]),
        ({"nth": 3}, [3]),
        ({"nth": "-n+2"}, [1, 2]),
        ({"first": 2}, [1, 2]),
        ({"last": 3}, [5, 6, 7]),
        ({"first": 11}, [1, 2, 3, 4, 5, 6, 7]),
    ],
)
def test_positions_are_counted_among_what_is_left(choice, numbers):
    others = [site(f"t{n}", "act", index=n) for n in range(1, 8)]
    mixed = [one for pair in zip(others, ROW, strict=True) for one in pair]
    assert taken({"site": "conv", **choice}, *mixed) == [f"s{n}" for n in numbers]


@pytest.mark.parametrize(
    ("choice", "said"),
    [
        ({"nth": "2n"}, "is number 1 of the 7 left, not nth 2n"),
        ({"last": 3}, "is number 1 of the 7 left, not among the last 3"),
    ],
)
def test_a_site_that_is_not_chosen_says_its_position(choice, said):
    assert reason(choice, *ROW) == said


def test_sites_are_taken_in_execution_order_however_they_come():
    assert taken({"first": 2}, *reversed(ROW)) == ["s1", "s2"]


RULES = """
version: 1
define:
  wide: {channels: ">=128"}
  widest: {matches: wide, not: {channels: "<1024"}}
rules:
  - {id: all-convs, match: {site: conv}}
  - {id: wide-ones, match: {matches: widest}}
  - {id: wide-or-act, match: {matches: [wide, widest], site: norm}}
"""


def test_every_rule_sees_all_sites_and_names_are_looked_up():
    found = match_rules(parse_rules(RULES), ALL)
    assert [[one.path for one in each.sites] for each in found] == [
        ["layer3.1.conv3"],
        ["layer3.1.bn3", "layer3.1.conv3"],
        ["layer3.1.bn3"],
    ]
    assert found[1].explain("layer3.1:add") == Refusal(
        ADD, "is not widest: is not wide: channels 67 is not >=128"
    )


def test_each_site_is_explained_and_an_unknown_one_is_answered_with_the_nearest():
    found = matching({"site": "conv"}, *ALL)
    assert found.explain("layer3.1.conv3") == Match(CONV)
    assert found.explain("layer4.0.act") == Refusal(LAST, "its roles are act, not conv")
    with pytest.raises(RuleError, match=r"no site is called 'layer3.1.conv4'\n.*'layer3.1.conv3'"):
        found.explain("layer3.1.conv4")
    with pytest.raises(RuleError, match="`attnsurgeon inspect` lists the sites"):
        found.explain("zzz")


def test_taken_and_left_are_all_sites_once():
    found = matching({"site": ["conv", "act"], "nth": "odd"}, *ALL)
    paths = [one.path for one in found.sites] + [one.site.path for one in found.refusals]
    assert sorted(paths) == sorted(one.path for one in ALL)


def test_a_function_decides_in_place_of_keys():
    def is_wide(one):
        return one.channels == 1024

    found = matching(is_wide, *ALL)  # pyright: ignore[reportArgumentType]
    assert [one.path for one in found.sites] == ["layer3.1.bn3", "layer3.1.conv3"]
    assert found.explain("layer3.1:add") == Refusal(ADD, "is_wide says no")


def rules_with(expect: str, match: str = "{site: conv}") -> str:
    return f"version: 1\nrules: [{{id: mine, match: {match}{expect}}}]"


def counts(text: str, *sites) -> None:
    require_counts(match_rules(parse_rules(text), sites))


def test_a_rule_that_matches_nothing_is_refused_with_the_nearest_candidates():
    with pytest.raises(RuleError) as caught:
        counts(rules_with("", "{site: norm, channels: '>=4096', stage: 3}"), *ALL)
    assert caught.value.what == "rule 'mine' matches nothing in this network"
    assert caught.value.hint is not None
    assert caught.value.hint.startswith("nearest: layer3.1.bn3 (channels 1024 is not >=4096); ")
    assert caught.value.hint.endswith("; 1 more refused")


def test_candidates_that_are_equally_near_come_in_execution_order():
    near = matching({"site": "conv", "channels": 3}, *reversed(ROW)).candidates()
    assert [refusal.site.path for refusal in near] == [one.path for one in ROW]


def test_a_role_that_no_site_plays_is_answered_with_the_roles_that_are_there():
    with pytest.raises(RuleError, match="roles found: act, conv, norm, residual-add"):
        counts(rules_with("", "{site: concat}"), *ALL)


def test_a_network_without_sites_is_said_to_have_none():
    with pytest.raises(RuleError, match="this network has no sites"):
        counts(rules_with(""))


@pytest.mark.parametrize("expect", [", expect: {count: 7}", ", expect: {count: '5..9'}", ""])
def test_a_count_that_is_met_passes(expect):
    counts(rules_with(expect), *ROW)


@pytest.mark.parametrize(
    ("expect", "said"),
    [
        (", expect: {count: 8}", "rule 'mine' matches 7 sites, not 8"),
        (", expect: {count: '<7'}", "rule 'mine' matches 7 sites, not <7"),
    ],
)
def test_a_stated_count_that_is_not_met_is_a_failed_check(expect, said):
    with pytest.raises(CheckFailed, match=said):
        counts(rules_with(expect), *ROW)


def test_a_rule_may_say_that_nothing_is_fine():
    counts(rules_with(", expect: {count: '>=0'}"), LAST)
    with pytest.raises(RuleError, match="matches nothing"):
        counts(rules_with(""), LAST)
