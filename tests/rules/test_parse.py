"""A rule file is read whole, or refused with file, line, column and the nearest right word."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attnsurgeon.errors import MechanismError, RuleError
from attnsurgeon.rules.fields import Attn
from attnsurgeon.rules.parse import parse_rules, read_rules, write_rules

WHOLE = """\
version: 1
name: eca-and-friends
define:
  wide: {channels: ">=128"}
rules:
  - id: eca-in-bottlenecks
    message: ECA at the end of every wide bottleneck.
    match:
      site: residual-branch
      name: ["layer[34].*", "re:^stages"]
      type: BatchNorm2d
      stage: [3, -1, ">=4"]
      channels: [">=128", 64, "7..11"]
      resolution: "<=28"
      stride: 16
      kernel: "1x7"
      conv_stride: 1
      groups: "!=1"
      depthwise: false
      branch: 1x1 spatial 1x1
      layout: NCHW
      matches: wide
      any: [{site: conv}, {all: [{name: x}, {type: y}]}]
      all: [{site: act}]
      not: {channels: 1024}
      inside: {type: Bottleneck, not: {any: [{name: a}, {all: [{type: b}]}]}}
      has: {name: "*.se"}
      follows: {site: conv}
      precedes: {site: residual-add}
      nth: 2n+1
    attn: {type: eca, kernel_size: 5}
    action: insert-before
    init: paper
    expect: {count: "1..20"}
  - id: plain
    match: {site: head, first: 3}
    attn: se
  - id: bare
    match: {site: stem, last: 2}
tests:
  - model: resnet50
    args: {num_classes: 7}
    input_size: [3, 192, 160]
    expect:
      eca-in-bottlenecks: {count: 8, first: a, last: b, matches: [a, b], leaves: {c: why}}
      plain: none
"""


def with_match(match: str) -> str:
    return f"version: 1\nrules:\n  - id: a\n    match: {match}\n"


def refusal(text: str, **options) -> str:
    with pytest.raises(RuleError) as caught:
        parse_rules(text, **options)
    return str(caught.value)


def test_every_key_of_the_format_is_read():
    file = parse_rules(WHOLE)
    rule = file.rules[0]
    assert [one.id for one in file.rules] == ["eca-in-bottlenecks", "plain", "bare"]
    assert rule.attn == Attn("eca", {"kernel_size": 5})
    assert file.rules[1].attn == Attn("se", {})
    assert file.rules[2].attn is None
    assert (rule.action, rule.init) == ("insert-before", "paper")
    assert rule.expect is not None
    assert rule.expect.count.holds(20)
    assert not rule.expect.count.holds(21)
    assert rule.match.model_fields_set == set(type(rule.match).model_fields) - {"first", "last"}
    assert file.tests is not None
    assert file.tests[0].input_size == (3, 192, 160)
    none = file.tests[0].expect["plain"].count
    assert none is not None
    assert none.holds(0)
    assert not none.holds(1)


def test_rules_written_out_are_read_back_the_same():
    file = parse_rules(WHOLE)
    again = parse_rules(write_rules(file))
    assert again == file
    assert write_rules(again) == write_rules(file)


@pytest.mark.parametrize(
    ("match", "said"),
    [
        ("{chanels: 3}", "4:13: 'chanels' is not a matcher key; did you mean 'channels'?"),
        ("{any: [{site: conv}, {kernle: 3}]}", "4:34: 'kernle' is not a matcher key; did you mean"),
        ("{not: {follows: {nam: x}}}", "4:29: 'nam' is not a matcher key; did you mean 'name'?"),
        ("{not: {nth: 3}}", "4:19: 'nth' is not a matcher key here; it counts what is left"),
        ("{inside: {channels: 3}}", "4:22: 'channels' is not a module matcher key; 'inside' and"),
        (
            "{has: {any: [{typ: x}]}}",
            "4:26: 'typ' is not a module matcher key; did you mean 'type'",
        ),
        ("{site: convs}", "4:19: 'site': 'convs' is not a site role; did you mean 'conv'?"),
        ("{site: [conv, acts]}", "4:26: 'site': 'acts' is not a site role; did you mean 'act'?"),
        ("{layout: NHCW}", "4:21: 'layout': 'NHCW' is not a layout; did you mean 'NHWC'?"),
        ("{channels: many}", "4:23: 'channels' must be a whole number, a comparison"),
        ("{channels: [3, many]}", "4:27: 'channels' must be a whole number"),
        ("{channels: 1.5}", "not the number 1.5"),
        ("{channels: -1}", "4:23: 'channels' counts from 0"),
        ("{channels: []}", "4:23: 'channels' is an empty list"),
        ("{channels: {}}", "4:23: 'channels' must be a whole number"),
        ("{channels: }", "4:13: 'channels' has no value"),
        ("{name: true}", "4:19: 'name' must be text, not the boolean true; put it in quotes"),
        ("{name: 3}", "4:19: 'name' must be text, not the number 3; put it in quotes"),
        ("{name: 're:['}", "4:19: 'name': 're:[' is not a regular expression"),
        ("{depthwise: yes}", "4:24: 'depthwise' must be true or false, not 'yes'"),
        ("{branch: 1x1 spatail}", "did you mean 'spatial'?"),
        ("{nth: 0}", "4:18: 'nth': 0 selects nothing"),
        ("{first: 0}", "4:20: 'first' must be a whole number from 1, not the number 0"),
        ("{last: true}", "4:19: 'last' must be a whole number from 1, not the boolean true"),
        ("{nth: 2n, first: 3}", "4:22: 'nth' and 'first' each choose among what is left; keep one"),
        ("{any: {name: x}}", "4:18: 'any' must be a list, not a mapping"),
        ("{any: []}", "4:18: 'any' is empty"),
        ("{not: conv}", "4:18: 'not' must be a mapping of keys to values, not 'conv'"),
        ("{not: {}}", "4:18: this matcher says nothing"),
        ("{inside: {}}", "4:21: this module matcher says nothing"),
        ("{}", "4:12: this matcher says nothing"),
        ("conv", "4:12: 'match' must be a mapping of keys to values, not 'conv'"),
        ("[conv]", "4:12: 'match' must be a mapping of keys to values, not a list"),
        ("{matches: wide}", "4:22: 'wide' is not in 'define'; nothing is defined"),
    ],
)
def test_a_wrong_matcher_is_refused_where_it_is_wrong(match, said):
    answer = refusal(with_match(match))
    assert answer.startswith("rules.yaml:4:")
    assert said in answer


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- a\n", "1:1: the rule file must be a mapping of keys to values, not a list"),
        (
            "just words\n",
            "1:1: the rule file must be a mapping of keys to values, not 'just words'",
        ),
        ("version: 2\nrules: [{id: a, match: {site: act}}]", "1:10: 'version' must be 1"),
        ("version: '1'\nrules: [{id: a, match: {site: act}}]", "1:10: 'version' must be 1"),
        ("version: true\nrules: [{id: a, match: {site: act}}]", "1:10: 'version' must be 1"),
        ("rules: [{id: a, match: {site: act}}]", "1:1: 'version' is missing from this rule file"),
        ("version: 1\nrules: []", "2:8: 'rules' is empty"),
        ("version: 1\nrules: {id: a}", "2:8: 'rules' must be a list, not a mapping"),
        ("version: 1\nrules: [{match: {site: act}}]", "2:9: 'id' is missing from this rule"),
        ("version: 1\nrules: [{id: a}]", "2:9: 'match' is missing from this rule"),
        (
            "version: 1\nrules: [{id: A b, match: {site: act}}]",
            "2:14: 'id': 'A b' is not kebab-case",
        ),
        (
            "version: 1\nruels: []\nname: x",
            "2:1: 'ruels' is not a rule file key; did you mean 'rules'",
        ),
        (
            with_match("{site: act}") + "    channels: 3\n",
            "5:5: 'channels' is not a rule key; write it under 'match'",
        ),
        (
            with_match("{site: act}") + "    atn: eca\n",
            "5:5: 'atn' is not a rule key; did you mean 'a",
        ),
        (with_match("{site: act}") + "    attn: {kernel_size: 3}\n", "5:11: 'attn' needs a 'type'"),
        (
            with_match("{site: act}") + "    attn: 3\n",
            "5:11: 'attn' must be text, not the number 3",
        ),
        (with_match("{site: act}") + "    action: replaced\n", "5:13: 'action': 'replaced' is not"),
        (with_match("{site: act}") + "    init: papre\n", "is not an init; did you mean 'paper'?"),
        (with_match("{site: act}") + "    expect: 3\n", "5:13: 'expect' must be a mapping"),
        (
            with_match("{site: act}") + "    expect: {cuont: 3}\n",
            "5:14: 'cuont' is not an expect key",
        ),
        (
            with_match("{site: act}") + "  - id: a\n    match: {site: conv}\n",
            "5:9: the id 'a' is taken by rule number 1",
        ),
        (
            "version: 1\ndefine: {wide: {site: act}}\nrules: [{id: a, match: {matches: wied}}]",
            "3:34: 'wied' is not in 'define'; did you mean 'wide'?",
        ),
        (
            "version: 1\ndefine: {b: {not: {matches: c}}, c: {matches: [b]}}\n"
            "rules: [{id: a, match: {site: act}}]",
            "2:10: 'b' is defined by itself (and 1 more)",
        ),
        (
            "version: 1\ndefine: {inside: {chanels: 3}}\nrules: [{id: a, match: {site: act}}]",
            "2:19: 'chanels' is not a matcher key; did you mean 'channels'?",
        ),
        (
            with_match("{site: act}") + "tests: [{model: x, expect: {b: none}}]",
            "5:29: no rule has the id 'b'; known: a",
        ),
        (
            with_match("{site: act}") + "tests: [{model: x, expect: {a: {cout: 3}}}]",
            "5:33: 'cout' is not an expectation key; did you mean 'count'?",
        ),
        (
            with_match("{site: act}") + "tests: [{model: x, expect: {a: {}}}]",
            "expectation says noth",
        ),
        (with_match("{site: act}") + "tests: [{model: x, expect: {}}]", "5:28: 'expect' is empty"),
        (
            with_match("{site: act}")
            + "tests: [{model: x, input_size: [3, a], expect: {a: none}}]",
            "5:32: 'input_size' must be a whole number from 1, not 'a'",
        ),
    ],
)
def test_a_wrong_file_is_refused_where_it_is_wrong(text, said):
    answer = refusal(text)
    assert answer.startswith("rules.yaml:")
    assert said in answer


def test_a_name_that_only_leads_to_a_circle_is_no_part_of_it():
    circle = "define: {a: {matches: b}, b: {matches: c}, c: {matches: b}}"
    answer = refusal(f"version: 1\n{circle}\nrules: [{{id: r, match: {{matches: a}}}}]")
    assert answer == "rules.yaml:2:27: 'b' is defined by itself (and 1 more)"


def test_words_that_yaml_1_1_took_for_booleans_are_words():
    (rule,) = parse_rules(with_match("{name: [on, off, yes, no]}")).rules
    assert [str(pattern) for pattern in rule.match.name or ()] == ["on", "off", "yes", "no"]


def test_the_first_problem_is_told_with_how_many_more():
    text = with_match("{site: convs, kernel: big}") + "    expect: {count: x}\n"
    answer = refusal(text, source="mine.yaml")
    assert answer.startswith("mine.yaml:4:19: 'site'")
    assert answer.endswith("(and 2 more)")


def test_a_misspelt_key_is_told_before_what_it_leaves_missing():
    assert refusal("version: 1\nrules:\n  - id: a\n    mtach: {site: act}\n").startswith(
        "rules.yaml:4:5: 'mtach' is not a rule key; did you mean 'match'?"
    )


def test_a_mechanism_is_checked_by_who_knows_it():
    def only_eca(attn: Attn) -> None:
        if attn.type != "eca":
            raise MechanismError(f"no mechanism is called {attn.type!r}", "did you mean 'eca'?")

    text = with_match("{site: act}") + "    attn: ecaa\n"
    answer = refusal(text, check_attn=only_eca)
    assert answer == "rules.yaml:5:11: no mechanism is called 'ecaa'; did you mean 'eca'?"
    assert parse_rules(text).rules[0].attn == Attn("ecaa", {})
    assert parse_rules(text.replace("ecaa", "eca"), check_attn=only_eca)


def test_a_rule_file_is_read_from_its_path(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(WHOLE, encoding="utf-8")
    assert read_rules(path) == parse_rules(WHOLE)


def test_a_file_that_is_not_there_is_answered_with_the_nearest(tmp_path):
    (tmp_path / "mine.yaml").write_text(WHOLE)
    with pytest.raises(RuleError, match=r"there is no rule file .*mien.yaml\n.*mine\.yaml"):
        read_rules(tmp_path / "mien.yaml")
    with pytest.raises(RuleError, match="there is no rule file"):
        read_rules(tmp_path / "nowhere" / "mine.yaml")


def test_a_folder_and_a_file_of_other_bytes_are_refused(tmp_path):
    with pytest.raises(RuleError, match="is not a file"):
        read_rules(tmp_path)
    path = tmp_path / "mine.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RuleError, match=r"mine.yaml:1:1: byte 0xff is not UTF-8"):
        read_rules(path)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, len(WHOLE)), st.text(alphabet="{}[]:,-!&*#|>'\"\t\n 1aé\x00", max_size=7))
def test_a_damaged_file_is_read_or_refused_but_never_crashes(place, damage):
    with contextlib.suppress(RuleError):
        parse_rules(WHOLE[:place] + damage + WHOLE[place + len(damage) :])
