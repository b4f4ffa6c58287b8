"""YAML text becomes plain values with places, and what a rule file never needs is refused."""

from __future__ import annotations

import time

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from attnsurgeon.errors import RuleError
from attnsurgeon.rules import document
from attnsurgeon.rules.document import decode, read_document, write_document

LOADERS = {"pure": yaml.SafeLoader, "libyaml": document.LOADER}


@pytest.fixture(params=LOADERS, autouse=True)
def _each_parser(request, monkeypatch):
    """PyYAML is built with and without libyaml; both must give the same answers."""
    monkeypatch.setattr(document, "LOADER", LOADERS[request.param])


def read(text: str) -> document.Node:
    return read_document(text, source="mine.yaml")


def refusal(text: str) -> str:
    with pytest.raises(RuleError) as caught:
        read(text)
    return str(caught.value)


def test_values_are_those_of_yaml_1_2():
    text = """
    words: [on, off, yes, no, y, 2026-11-21, 12:30]
    flags: [true, False, TRUE]
    numbers: [10, 010, -3, +4, 1e-4, .5, 6.25]
    nothing: [~, null, ]
    quoted: ["3", 'true', "null"]
    block: |
      7
    """
    assert read(text).data == {
        "words": ["on", "off", "yes", "no", "y", "2026-11-21", "12:30"],
        "flags": [True, False, True],
        "numbers": [10, 10, -3, 4, 1e-4, 0.5, 6.25],
        "nothing": [None, None],
        "quoted": ["3", "true", "null"],
        "block": "7\n",
    }


def test_a_number_too_long_to_be_one_stays_text():
    assert read("a: " + "9" * 5000).data == {"a": "9" * 5000}
    assert read("a: 1e999").data == {"a": "1e999"}


def test_every_key_and_value_knows_its_line_and_column():
    root = read("a: 1\n日本😀: {é: x, zz: [7, 11]}\n")
    inner = root.children["日本😀"]
    assert inner.keys["zz"] == (2, 13)
    second = inner.children["zz"].children[1]
    assert (second.data, second.line, second.column) == (11, 2, 21)


def test_a_byte_order_mark_does_not_move_the_columns():
    assert read("\ufeffa: 1").keys["a"] == (1, 1)


def test_an_alias_is_the_value_it_names():
    assert read("a: &x {n: [3]}\nb: *x\n").data == {"a": {"n": [3]}, "b": {"n": [3]}}


def test_aliases_that_explode_are_refused_before_they_are_expanded():
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 40)]
    began = time.perf_counter()
    said = refusal("\n".join(lines))
    assert "more than 10,000 values, aliases expanded" in said
    assert said.startswith("mine.yaml:5:")
    assert time.perf_counter() - began < 2


def test_an_alias_to_itself_and_an_alias_to_nothing_are_refused():
    assert refusal("a: &x [1, *x]") == "mine.yaml:1:11: '*x' contains itself"
    assert "mine.yaml:1:4: nothing is anchored as '&y'" in refusal("a: *y")


def test_a_key_written_twice_is_refused_at_the_second():
    said = refusal("site: conv\nname: x\nsite: act\n")
    assert said == "mine.yaml:3:1: 'site' is written twice; the first is in line 1"


def test_the_same_key_in_two_mappings_is_read():
    assert read("a: {site: 1}\nb: {site: 2}").data == {"a": {"site": 1}, "b": {"site": 2}}


@pytest.mark.parametrize(
    ("text", "place", "said"),
    [
        ("rules:\n\t- id: a\n", "2:1", "a tab cannot indent YAML"),
        ("channels: >=128\n", "1:12", 'quote a comparison: ">=128"'),
        ("channels: !=128\n", "1:11", "quote text that starts with '!'"),
        ("name: *.bn1\n", "1:8", "quote a glob that starts with '*'"),
        ("a: !!python/object/apply:os.system [echo]\n", "1:4", "python/object/apply:os.system"),
        ("a: 1\n---\nb: 2\n", "2:1", "a second document starts here"),
        ("[a]: 1\n", "1:1", "a key must be a word"),
        ("? [a]\n: 1\n", "1:3", "a key must be a word"),
        ("a: \x07\n", "1:4", "character U+0007 is not allowed"),
        ("a: \ud800\n", "1:4", "character U+D800 is not allowed"),
        ("a: [1\n", "2:1", "not YAML"),
        ("a: b: c\n", "1:5", "not YAML"),
        ("", "1:1", "the file is empty"),
        ("# only a remark\n", "1:1", "the file is empty"),
        ("[" * 100_000, "1:51", "nested more than 50 levels deep"),
        ("%YAML 3.0\n---\na: 1\n", "1:1", "not YAML"),
    ],
)
def test_broken_text_is_refused_at_its_place_with_the_usual_cause(text, place, said):
    answer = refusal(text)
    assert answer.startswith(f"mine.yaml:{place}: ")
    assert said in answer


def test_no_tag_is_ever_built(tmp_path):
    target = tmp_path / "made"
    refusal(f"a: !!python/object/apply:pathlib.Path.touch [!!python/name:x '{target}']")
    assert not target.exists()


def test_bytes_that_are_not_utf_8_are_refused_where_they_stand():
    with pytest.raises(RuleError, match=r"^mine.yaml:2:4: byte 0xff is not UTF-8"):
        decode(b"a: 1\n\xc3\xa9: \xff", source="mine.yaml")
    assert decode(b"\xc3\xa9: 1", source="mine.yaml") == "é: 1"


def test_a_file_of_millions_of_bytes_is_refused():
    with pytest.raises(RuleError, match="this is not a rule file"):
        decode(b"#" * 1_000_001, source="mine.yaml")
    assert len(decode(b"#" * 1_000_000, source="mine.yaml")) == 1_000_000


def test_what_is_written_is_read_back():
    data = {"z": [1, "3", "true", None, 0.5], "a": {"on": True, "glob": "*.bn", "t": ">=3"}}
    assert read(write_document(data)).data == data
    assert list(read(write_document(data)).data) == ["z", "a"]


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.one_of(st.text(max_size=9), st.from_regex(r"[-+0-9.eEx_:~]{1,9}", fullmatch=True)))
@example("1e-4")
@example("08")
@example("on")
@example("a\x85b\u2028 \u2029")
def test_text_that_is_written_is_read_back_as_text(text):
    assert read(write_document({"a": [text]})).data == {"a": [text]}
