"""The page of limits says what the code holds to, and what is beyond a limit is refused in time."""

import json
import time
from pathlib import Path

import pytest

from attnsurgeon import find_sites, sizes
from attnsurgeon.errors import ModelError, RuleError
from attnsurgeon.rules import checking, document, filters, values
from attnsurgeon.rules import schema as rule_schema
from attnsurgeon.rules.match import match_rules
from attnsurgeon.rules.parse import parse_rules
from attnsurgeon.saved import fields, schema
from tests.cli.tiny import net

PAGE = (Path(__file__).parents[1] / "docs" / "limits.md").read_text(encoding="utf-8")
ROWS = {line.split("|")[1].strip(): line for line in PAGE.splitlines() if line.startswith("| ")}
STATED = {
    "rule file": [
        f"{document.MAX_BYTES:,}",
        f"{document.MAX_DEPTH} levels",
        f"{checking.MAX_DEPTH} steps",
        f"{document.MAX_NODES:,} values",
        f"{filters.MAX_SECONDS:g} to match",
    ],
    "tests in a rule file": [f"{rule_schema.MAX_TESTS:,}, each"],
    "pattern in a rule: a glob, `re:...`, a branch": [
        f"{values.MAX_PATTERN:,} characters",
        f"{values.MAX_PROGRAM:,} bytes",
    ],
    "`surgery.json`": [
        f"{schema.MAX_BYTES:,}",
        f"{schema.MAX_DEPTH} levels",
        f"{fields.MAX_VALUES:,} values",
        f"{fields.MAX_SITES:,} sites",
    ],
    "input size, anywhere": [f"{sizes.MAX_SIDE:,} a side", f"{sizes.MAX_ELEMENTS:,} numbers"],
}


@pytest.mark.parametrize("what", STATED)
def test_the_page_states_the_limits_of_the_code(what):
    for figure in STATED[what]:
        assert figure in ROWS[what]


@pytest.fixture(scope="module")
def sites():
    return find_sites(net(), input_size=(3, 40, 24))


RULE = "version: 1\nrules:\n  - id: a\n    match: "


def defined(body, count=60):
    """A file of names that refer to the next, and a rule that asks for the first."""
    lines = "".join(f"  d{i}: {body.replace('NEXT', f'd{i + 1}')}\n" for i in range(count))
    last = f"  d{count}: {{site: stem, type: nothing}}\n"
    return f"version: 1\ndefine:\n{lines}{last}rules:\n  - id: a\n    match: {{matches: d0}}\n"


# Each would take longer than a life, or more memory than there is, without its limit.
HOSTILE_RULES = {
    "nested alternatives": f"{RULE}{{name: 're:^(([a-z0-9.])+)+!$'}}",
    "stars": f"{RULE}{{name: '{'*a' * 400}!'}}",
    "repeats of repeats": f"{RULE}{{name: 're:((((a{{99}}){{99}}){{99}}){{99}})'}}",
    "classes": f"{RULE}{{name: 're:{chr(92)}pL{{900}}{chr(92)}pN{{900}}'}}",
    "spaces": f"{RULE}{{channels: '{' ' * 900_000}x'}}",
    "names twice": defined("{any: [{matches: NEXT}, {matches: NEXT}, {not: {matches: NEXT}}]}", 40),
    "names twice, flat": defined("{matches: [NEXT, NEXT], type: '*'}", 99),
    "a long chain": defined("{matches: NEXT}", 2000),
    "a long circle": defined("{matches: NEXT}", 2000).replace("nothing}", "x, matches: d0}"),
    "neighbours of neighbours": f"{RULE}{'{precedes: {follows: ' * 15}{{site: conv}}{'}}' * 15}",
    "unknown keys": RULE + "{" + ", ".join(f"k{i}: 1" for i in range(4800)) + "}",
    "unknown names": "version: 1\ndefine:\n"
    + "".join(f"  d{i}: {{matches: e{i}}}\n" for i in range(1900))
    + "rules:\n  - id: a\n    match: {site: conv}\n",
    "empty rules": "version: 1\nrules:\n" + "  - {}\n" * 9000,
    "aliases": "a: &a [x, x]\n"
    + "".join(f"a{i}: &a{i} [*a{i - 1 if i else ''}, *a{i - 1 if i else ''}]\n" for i in range(40)),
    "brackets": "#\n" * 400_000 + "[" * 5000,
}


LONG = {"brackets", "empty rules", "many", "many keys", "bytes"}  # of seconds


def each(names):
    return [pytest.param(n, marks=pytest.mark.slow if n in LONG else ()) for n in names]


@pytest.mark.parametrize("name", each(HOSTILE_RULES))
def test_a_hostile_rule_file_is_answered_in_time(name, sites):
    started = time.process_time()
    said = ""
    try:
        match_rules(parse_rules(HOSTILE_RULES[name], source="hostile.yaml"), sites)
    except RuleError as error:
        said = str(error)
    assert time.process_time() - started < 5
    assert len(said) < 2000
    assert said == "" or said.startswith("hostile.yaml:") or "takes longer than" in said


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("re:^(?!layer1)", "cannot look around: say `not: {name: ...}`"),
        ("re:(?<=conv)1", "cannot look around"),
        (r"re:(a)\1", r"invalid escape sequence: \\1"),
        ("re:(", "missing \\)"),
        ("re:((a{100}){100}){100}", "invalid repetition size"),
        ("re:" + "a" * 1000, "longer than 1,000 characters"),
    ],
)
def test_a_pattern_that_is_not_taken_is_refused_with_its_line(pattern, said):
    with pytest.raises(RuleError, match=rf"mine\.yaml:4:19: 'name'.*{said}"):
        parse_rules(f"{RULE}{{name: '{pattern}'}}", source="mine.yaml")


@pytest.mark.parametrize("extra", [0, 1])
def test_a_rule_file_names_no_more_networks_than_can_be_built_in_a_while(extra):
    test = "  - {model: resnet18, expect: {a: none}}\n"
    text = f"{RULE}{{site: stem}}\ntests:\n{test * (rule_schema.MAX_TESTS + extra)}"
    if not extra:
        assert len(parse_rules(text, source="mine.yaml").tests or ()) == rule_schema.MAX_TESTS
        return
    with pytest.raises(RuleError, match=r"mine\.yaml:6:3: 'tests': more than 200 of them"):
        parse_rules(text, source="mine.yaml")


def test_what_takes_too_long_to_match_is_ended(sites, monkeypatch):
    monkeypatch.setattr(filters, "MAX_SECONDS", -1.0)
    with pytest.raises(RuleError, match="takes longer than -1 s"):
        match_rules(parse_rules(f"{RULE}{{site: conv}}"), sites)


def nested(depth):
    return "[" * depth + "]" * depth


HOSTILE_RECORDS = {
    "deep": (lambda: "[" * 200_000, "cannot be read: RecursionError"),
    "31 levels": (lambda: nested(31), "nested more than 30 levels deep"),
    "900 levels": (lambda: nested(900), "nested more than 30 levels deep"),
    "many": (lambda: json.dumps([[]] * 600_000), "more than 500,000 values"),
    "many keys": (lambda: json.dumps(dict.fromkeys(range(600_000), 0)), "more than 500,000 values"),
    "no number": (lambda: '{"a": NaN}', "NaN is no number"),
    "infinite": (lambda: '{"a": 1e999}', "has no 'format'"),
    "digits": (lambda: "9" * 100_000, "cannot be read: ValueError|is not an object"),
    "bytes": (lambda: " " * (1 << 23) + "{}", "more than 8,388,608 bytes"),
}


@pytest.mark.parametrize("name", each(HOSTILE_RECORDS))
def test_a_hostile_record_is_refused_in_time(tmp_path, name):
    file = tmp_path / "surgery.json"
    text, said = HOSTILE_RECORDS[name]
    file.write_text(text())
    started = time.process_time()
    with pytest.raises(ModelError, match=said) as caught:
        schema.read_record(file)
    assert len(str(caught.value)) < 2000
    assert time.process_time() - started < 5
