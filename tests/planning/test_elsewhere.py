"""A mechanism whose own placement takes nothing: the answer names one that does, with its count."""

from __future__ import annotations

import re
from typing import Any

import pytest

from attnsurgeon.asked import rules_for
from attnsurgeon.errors import MechanismError, RuleError, SurgeonError
from attnsurgeon.operate import plan_rules
from attnsurgeon.planning.plan import Plan
from attnsurgeon.report.surfaces import hint_of
from attnsurgeon.rules.parse import parse_rules
from attnsurgeon.sites.survey import Survey
from tests.nets.unadded import Whole
from tests.published import survey_of
from tests.surgery import surveyed

GOOGLENET = {"net": "torchvision:googlenet", "args": {"weights": None, "init_weights": False}}


def asked(name: str, survey: Survey, where: str = "paper") -> Plan:
    file = rules_for(name, where, None, None, "identity")
    return plan_rules(survey, file, init="identity", where=where)


def refusal(name: str, survey: Survey) -> Any:
    with pytest.raises(SurgeonError) as caught:
        asked(name, survey)
    return caught.value


@pytest.mark.parametrize(
    ("args", "said"),
    [({"form": "sums"}, "coord: form='sums' is not one of"), ({"redution": 8}, "no argument 'red")],
)
def test_arguments_that_work_nowhere_are_the_answer_before_any_placement(args, said):
    file = rules_for("coord", "paper", None, args, "identity")
    with pytest.raises(MechanismError, match=re.escape(said)):
        plan_rules(survey_of({"net": "resnet18"}), file, init="identity", where="paper")


def test_the_answer_says_what_is_missing_and_what_would_work():
    error = refusal("coord", survey_of({"net": "resnet18"}))
    assert isinstance(error, RuleError)
    assert error.what == (
        "coord's own placement is the activation after the depthwise convolution of a block that "
        "expands first; this network has none"
    )
    assert error.hint == "try where='residual-branch' (8 sites)"
    assert hint_of(error) == "try --where residual-branch (8 sites)"


@pytest.mark.parametrize(
    ("name", "network", "place"),
    [
        ("se", {"net": "vgg11"}, "stage"),
        ("simam", {"net": "vgg11"}, "conv3x3"),
        ("scse", {"net": "vgg11"}, "stage"),
        ("coord", {"net": "resnet50"}, "residual-branch"),
        ("sc", {"net": "mobilenetv2_100"}, "depthwise"),
        pytest.param("dia", GOOGLENET, "block-branch", marks=pytest.mark.slow),
        pytest.param("sk", GOOGLENET, "conv3x3", marks=pytest.mark.slow),
        ("bam", {"net": "vit_tiny_patch16_224"}, "residual-branch"),
    ],
)
def test_what_it_names_takes_the_mechanism_at_as_many_sites(name, network, place):
    survey = survey_of(network)
    named = re.fullmatch(
        r"try --where ([\w-]+) \((\d+) sites?\)", hint_of(refusal(name, survey)) or ""
    )
    assert named
    assert named[1] == place
    assert sum(1 + len(cut.shared) for cut in asked(name, survey, place)) == int(named[2])


def test_where_nothing_takes_it_nothing_is_named():
    error = refusal("aff", survey_of({"net": "vgg11"}))
    assert "residual additions of the last two stages; this network has none" in error.what
    assert "try" not in f"{error.hint} {error.command}"
    assert "attnsurgeon inspect" in error.command
    assert "find_sites" in error.hint


def test_a_mechanism_that_all_its_own_sites_refuse_has_both_ways_on():
    error = refusal("aw", survey_of({"net": "mobilenetv2_100"}))
    assert isinstance(error, MechanismError)
    assert error.hint == (
        "the largest that works here is reduction=3; or try where='depthwise' (17 sites)"
    )
    assert hint_of(error) == (
        "the largest that works here is --arg reduction=3; or try --where depthwise (17 sites)"
    )


def test_a_placement_that_was_asked_for_by_name_is_answered_with_its_own_sites():
    with pytest.raises(RuleError, match="matches nothing") as caught:
        asked("coord", survey_of({"net": "resnet18"}), "depthwise-act")
    assert "try" not in str(caught.value)


def test_a_network_without_any_place_has_an_answer_too():
    net = Whole(channels=8, out=8)
    error = refusal("aff", surveyed(net, (3, 16, 16)))
    assert "no other placement takes it here" in error.hint


def test_a_file_that_only_bears_the_name_is_answered_as_a_file():
    text = "version: 1\nname: paper\nrules:\n"
    text += "".join(f"  - {{id: r{i}, match: {{site: concat}}, attn: eca}}\n" for i in range(2))
    survey = survey_of({"net": "resnet18"})
    with pytest.raises(RuleError, match="rule 'r0' matches nothing"):
        plan_rules(survey, parse_rules(text), init="identity", where="paper")
