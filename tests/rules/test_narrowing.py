"""Saying where without a file: every way takes the sites named here by hand, and its rules too."""

from __future__ import annotations

import pytest
import timm

import attnsurgeon
from attnsurgeon.errors import CheckFailed, RuleError, UsageError
from attnsurgeon.rules.parse import parse_rules
from tests.cli.command import attnsurgeon as run

BRANCHES = [f"layer{i}.{j}.bn2" for i in (1, 2, 3, 4) for j in (0, 1)]
# Keywords -> the sites of a resnet18 that they leave of its residual branches.
NARROWED = {
    "a module": ({"at": "layer3"}, ["layer3.0.bn2", "layer3.1.bn2"]),
    "a glob": ({"at": "layer[34].0.*"}, ["layer3.0.bn2", "layer4.0.bn2"]),
    "a regular expression": ({"at": r"re:^layer1\."}, ["layer1.0.bn2", "layer1.1.bn2"]),
    "two modules": ({"at": ["layer1.0", "layer4.1"]}, ["layer1.0.bn2", "layer4.1.bn2"]),
    "a site": ({"at": "layer4.1.bn2"}, ["layer4.1.bn2"]),
    "a stage": ({"stage": 4}, ["layer4.0.bn2", "layer4.1.bn2"]),
    "stages from the last": ({"stage": [-2, -1]}, BRANCHES[4:]),
    "channels": ({"channels": ">=256"}, BRANCHES[4:]),
    "channels in a range": ({"channels": "64..128"}, BRANCHES[:4]),
    "every second": ({"every": 2}, BRANCHES[1::2]),
    "every third of what is left": ({"stage": [2, 3, 4], "every": 3}, [BRANCHES[4], BRANCHES[7]]),
    "all of it": ({"at": "layer*", "stage": [3, 4], "channels": 512, "every": 2}, [BRANCHES[7]]),
}


@pytest.fixture(scope="module")
def net():
    return timm.create_model("resnet18")


def taken(plan):
    return [cut.site.path for cut in plan.cuts]


def options(keywords):
    for name, value in keywords.items():
        for word in value if name == "at" and isinstance(value, list) else [value]:
            yield f"--{name}"
            yield ",".join(map(str, word)) if isinstance(word, list) else word


@pytest.mark.parametrize("where", ["residual-branch", pytest.param(None, marks=pytest.mark.slow)])
@pytest.mark.parametrize("what", NARROWED)
def test_a_placement_is_narrowed(net, what, where):
    keywords, sites = NARROWED[what]
    plan = attnsurgeon.plan(net, "se", where, **keywords)
    assert taken(plan) == sites
    # What is written down says the same, without keywords.
    again = attnsurgeon.plan(net, rules=parse_rules(plan.rules))
    assert taken(again) == sites


@pytest.mark.parametrize(
    "what",
    [pytest.param(w, marks=() if w == "all of it" else pytest.mark.slow) for w in NARROWED],
)
def test_the_command_line_says_the_same_and_prints_the_rules(net, what, tmp_path):
    keywords, sites = NARROWED[what]
    words = ["plan", "resnet18", "--attn", "se", *options(keywords)]
    done = run(*words, "--json")
    assert done.code == 0, done.err
    assert [site["path"] for site in done.json()["sites"]] == sites
    printed = run(*words, "--print-rules")
    assert (printed.code, printed.err) == (0, "")
    assert taken(attnsurgeon.plan(net, rules=parse_rules(printed.out))) == sites


def test_a_path_is_that_site_where_no_placement_is_named_and_only_there(net):
    assert taken(attnsurgeon.plan(net, "se", at="layer2.0.conv1")) == ["layer2.0.conv1"]
    with pytest.raises(RuleError, match="matches nothing"):
        attnsurgeon.plan(net, "se", "residual-branch", at="layer2.0.conv1")
    with pytest.raises(RuleError, match="matches nothing"):
        attnsurgeon.plan(net, "se", at="layer2.0.conv1", stage=4)


def test_sites_and_paths_are_a_where(net):
    sites = attnsurgeon.find_sites(net).where(site="residual-branch", stage=-1)
    listed = ["layer4.0.bn2", "layer4.1.bn2"]
    assert taken(attnsurgeon.plan(net, "se", sites)) == listed
    assert taken(attnsurgeon.plan(net, "se", listed[::-1])) == listed  # in execution order
    assert attnsurgeon.plan(net, "se", listed).where == "layer4.0.bn2, layer4.1.bn2"
    assert taken(attnsurgeon.plan(net, "se", listed, every=2)) == listed[1:]
    cost = attnsurgeon.estimate("resnet18", "se", listed)
    assert cost.delta == attnsurgeon.estimate(net, "se", sites).delta
    assert cost.delta.params > 0


@pytest.mark.parametrize(
    ("where", "said"),
    [
        (["layer4.0.bn2", "layer4.1.bn3"], r"no site of this network is 'layer4\.1\.bn3'\n.*bn2"),
        ([], "lists no site"),
        ([3], "lists the number 3"),
        (["layer4.*"], "no site of this network"),  # a list is of paths, not of patterns
    ],
)
def test_a_list_of_something_else_is_refused(net, where, said):
    with pytest.raises(RuleError, match=said):
        attnsurgeon.plan(net, "se", where)


@pytest.mark.parametrize(
    ("keywords", "error", "said"),
    [
        ({"every": 0}, UsageError, "every 0 is no number of sites"),
        ({"every": "2"}, UsageError, "every '2' is no number of sites"),
        ({"stage": "deep"}, UsageError, "stage 'deep': .*whole number"),
        ({"channels": ">=x"}, UsageError, "channels '>=x': .*whole number"),
        ({"at": "re:("}, UsageError, "at "),
        ({"at": "layer9"}, RuleError, "matches nothing"),
        ({"stage": 9}, RuleError, "matches nothing"),
    ],
)
def test_what_cannot_be_meant_is_refused(net, keywords, error, said):
    with pytest.raises(error, match=said):
        attnsurgeon.plan(net, "se", "residual-branch", **keywords)
    if keywords == {"every": "2"}:
        return  # which is a number on the command line
    done = run("plan", "resnet18", "--attn", "se", *options(keywords))
    assert done.code in (2, 4)
    assert "Traceback" not in done.err


def test_a_function_and_a_rule_that_counts_are_not_narrowed_behind_their_back(net):
    with pytest.raises(UsageError, match="where is a function"):
        attnsurgeon.plan(net, "se", lambda site: site.channels == 64, stage=1)
    counting = "version: 1\nrules: [{id: a, attn: se, match: {site: conv, first: 2}}]"
    with pytest.raises(UsageError, match="every 2 counts, and rule 'a' does by 'first'"):
        attnsurgeon.plan(net, rules=parse_rules(counting), every=2)
    kept = attnsurgeon.plan(net, rules=parse_rules(counting), stage=4)
    assert taken(kept) == ["layer4.0.conv1", "layer4.0.conv2"]  # the first two of what is left


def test_a_count_that_a_file_states_is_of_the_file_alone(net):
    text = "version: 1\nrules: [{id: a, attn: se, match: {site: conv}, expect: {count: 20}}]"
    assert len(taken(attnsurgeon.plan(net, rules=parse_rules(text)))) == 20
    assert len(taken(attnsurgeon.plan(net, rules=parse_rules(text), stage=4))) > 0
    with pytest.raises(CheckFailed):
        attnsurgeon.plan(net, rules=parse_rules(text.replace("20", "19")))


def test_options_that_narrow_nothing_are_refused():
    done = run("cost", "resnet18", "--stage", "3")
    assert done.code == 2
    assert "--stage narrows what is chosen" in done.err
    done = run("plan", "resnet18", "--attn", "se", "--print-rules", "--json")
    assert done.code == 2
