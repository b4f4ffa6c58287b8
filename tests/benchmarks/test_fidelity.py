"""The authors' whole networks: ours have as many parameters, and the page says so."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from attnsurgeon.attention.registry import mechanisms
from benchmarks.fidelity import __main__ as fidelity
from benchmarks.fidelity import modules
from benchmarks.fidelity.__main__ import Network, networks

PAGE = Path(__file__).parents[2] / "docs" / "fidelity.md"
QUICK = {("bam", "resnet18"), ("triplet", "mobilenetv2_100"), ("eca", "mobilenetv2_100")}


@pytest.mark.parametrize(
    "one",
    [
        pytest.param(
            one,
            id=f"{one.form} {one.net} {one.source.partition(' ')[0]}",
            marks=[] if (one.attn, one.net) in QUICK else pytest.mark.slow,
        )
        for one in networks()
    ],
)
def test_ours_has_as_many_parameters_as_theirs_or_it_is_said_why_not(one: Network):
    assert (one.counted() == one.total) == one.has_to_equal


def test_a_network_that_is_not_equal_fails(monkeypatch):
    known = next(one for one in networks() if (one.attn, one.net) == ("bam", "resnet18"))
    monkeypatch.setattr(fidelity, "networks", lambda: (dataclasses.replace(known, total=1),))
    monkeypatch.setattr("sys.argv", ["fidelity"])
    with pytest.raises(SystemExit, match="not as the data says: bam in resnet18"):
        fidelity.main()


def test_the_data_is_of_mechanisms_that_there_are_and_of_enough_networks():
    found = networks()
    assert {one.attn for one in found} <= set(mechanisms())
    assert len({(one.attn, one.args, one.net) for one in found}) >= 35
    assert all(re.fullmatch(r"[\w.-]+/[\w.-]+ .+|timm .+", one.source) for one in found)


def test_each_mechanism_is_compared_with_running_code_or_it_is_said_why_not():
    assert set(mechanisms()) == {*modules.vectors(), *modules.UNRUNNABLE}
    assert not set(modules.vectors()) & set(modules.UNRUNNABLE)


def test_vectors_of_others_than_the_authors_are_called_so():
    theirs = {name for name, found in modules.vectors().items() if "(third party)" in found[0]}
    timms = {"ge", "bot", "halo", "lambda", "condconv"}
    assert theirs == {"gam", "nl", "a2", "dyrelu", "frelu", "dyconv"} | timms


def test_each_mechanism_without_running_code_has_a_test_of_its_equation():
    for name in modules.UNRUNNABLE:
        assert modules.oracle(name), name
    assert modules.oracle("se").startswith("SE ")
    assert modules.oracle("nothing") == ""


def rows() -> list[list[str]]:
    """The cells of the page's table of networks."""
    text, _, _ = PAGE.read_text(encoding="utf-8").partition("## Module by module")
    lines = text.splitlines()
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line[:2] == "| "]


def test_the_page_has_a_row_for_each_network_of_the_data_and_no_other():
    said = [(form, net.strip("`"), theirs) for form, net, _, theirs, _, _ in rows()[1:]]
    assert said == [(one.form, one.net, f"{one.total:,}") for one in networks()]


def test_each_row_of_the_page_says_equal_where_its_numbers_are():
    for _, _, _, theirs, ours, equal in rows()[1:]:
        assert (theirs == ours) == (equal == "yes")
        assert equal == "yes" or equal.startswith("no: ")


@pytest.mark.slow
def test_the_page_says_what_is_counted():
    text = PAGE.read_text(encoding="utf-8")
    assert all(part in text for part in fidelity.parts().values())
