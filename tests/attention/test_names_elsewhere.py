"""The table of docs/mechanisms.md: what timm calls a mechanism, and what it is called here."""

import inspect
import re
from pathlib import Path

import pytest
from timm.layers.create_attn import create_attn, get_attn

from attnsurgeon.attention.registry import create_attention, lookup, mechanisms
from attnsurgeon.grid.spelling import read_attn
from tests.attention.cases import params

DOCS = Path(__file__).parents[2] / "docs"
ROW = re.compile(r"^\| (.+?) \| (`.+`) \|$", re.M)
WORD = re.compile(r"`([^`]+)`")


def rows(page):
    table = (DOCS / page).read_text().partition("<!-- timm's names -->")[2].partition("<!-- end")[0]
    return [(WORD.findall(theirs), WORD.findall(ours)) for ours, theirs in ROW.findall(table)]


def known_to_timm():
    source = inspect.getsource(get_attn)
    return re.findall(r"attn_type == '(\w+)'", source)


@pytest.mark.parametrize("page", ["mechanisms.md", "mechanisms.zh-CN.md"])
def test_every_name_of_timm_has_a_row(page):
    listed = [name for theirs, _ in rows(page) for name in theirs]
    assert len(listed) == len(set(listed)) == 21
    assert set(known_to_timm()) <= set(listed)


def test_what_has_the_same_name_is_there_and_what_is_not_is_not():
    *present, (missing, _) = rows("mechanisms.md")
    for theirs, ours in present:
        for name in theirs if not ours else []:
            assert lookup(name).name == name
    for name in missing:
        assert name not in mechanisms()


def gates():
    return [(theirs[0], ours[0]) for theirs, ours in rows("mechanisms.md") if "(" in str(ours)]


@pytest.mark.parametrize(("theirs", "ours"), gates())
def test_a_gate_of_another_name_has_as_many_parameters(theirs, ours):
    spec = read_attn(ours)
    made = create_attention(spec.name, 512, **spec.args)
    assert params(made) == params(create_attn(theirs, 512))


def test_the_gates_of_another_name_are_four():
    assert [theirs for theirs, _ in gates()] == ["ecam", "ceca", "gc", "gca"]


@pytest.mark.parametrize("page", ["mechanisms.md", "mechanisms.zh-CN.md"])
def test_what_the_text_names_can_be_made(page):
    section = (DOCS / page).read_text().partition("<!-- timm's names -->")[2].partition("\n## ")[0]
    named = [w for w in WORD.findall(section.partition("<!-- end")[2]) if w[0].islower()]
    assert len(named) == 9
    for name in named:
        spec = read_attn(name)
        if lookup(spec.name).kind == "gate":
            create_attention(spec.name, 64, **spec.args)
