"""The table of what every mechanism can be carried to is what the probes say."""

import json
import re
import sys

import pytest

from attnsurgeon import mechanisms
from attnsurgeon.attention.registry import INITS
from benchmarks.portability import __main__ as command
from benchmarks.portability.probes import PROBES, tried
from benchmarks.portability.subject import Subject
from benchmarks.portability.table import PAGE, limit, measured, missing, read, verdict, written

TABLE = read(PAGE.read_text(encoding="utf-8"))
QUICK = [("se", "fx"), ("cbam", "copy + pickle"), ("dia", "copy + pickle"), ("sk", "fx")]
HOLDS = dict.fromkeys(INITS, "")
ASKED = (
    "trace + save", "script", "ONNX", "ONNX classic", "torch.export", "compile", "PT2E int8",
    "fx", "copy + pickle", "DDP", "FSDP2", "bf16", "channels_last", "deterministic",
)  # fmt: skip
PARTLY = {("sa", "pruning")}  # the card has a limit that the small network does not meet


def everywhere():
    return {(name, column): HOLDS for name in mechanisms() for column in PROBES}


def test_the_page_has_every_mechanism_and_every_column_and_no_empty_cell():
    assert {*ASKED} <= {*PROBES}
    assert [*TABLE] == [(name, column) for name in mechanisms() for column in PROBES]


def test_each_no_is_a_limit_on_the_mechanisms_card_and_each_limit_a_no():
    noes = {key for key, reasons in TABLE.items() if verdict(reasons) != "yes"}
    assert noes | PARTLY == {key for key in everywhere() if limit(*key)}
    for key in noes:
        assert {*TABLE[key].values()} <= {"", limit(*key)}


@pytest.mark.parametrize("name", list(mechanisms()))
def test_a_limit_names_columns_of_the_table(name):
    for text in mechanisms()[name].limits:
        ways, _, reason = text.partition(": ")
        assert {*ways.split(", ")} <= {*PROBES}
        assert reason


@pytest.mark.parametrize(("name", "column"), QUICK)
def test_a_cell_is_what_its_probe_says(name, column):
    assert verdict(measured(name, column)) == verdict(TABLE[name, column])


@pytest.mark.nightly
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("column", list(PROBES))
@pytest.mark.parametrize("name", list(mechanisms()))
def test_every_cell_is_what_its_probe_says(name, column):
    assert verdict(measured(name, column)) == verdict(TABLE[name, column])


def test_what_a_probe_raises_is_a_reason():
    def raising(subject):
        raise ValueError(f"\n  not for {subject.mechanism}\nand more")

    assert tried(raising, Subject("se", "paper")) == "ValueError: not for se"


def test_a_page_is_read_as_it_was_written_and_each_no_has_its_reason():
    cells = everywhere()
    cells["se", "script"] = {"identity": "", "paper": "it has a word too many"}
    cells["eca", "fx"] = {"identity": "why one", "paper": "why two"}
    cells["cbam", "fx"] = {"identity": "why: one", "paper": "why: one"}
    page = written(cells)
    assert read(page) == cells
    lines = ("fx: why one", "fx: why two", "fx: why: one", "script: it has a word too many")
    for line in lines:
        assert len(re.findall(rf"^\d+\. {line}$", page, re.MULTILINE)) == 1
    assert "| `se` | yes | identity [1] | yes |" in page


def test_a_card_speaks_in_the_place_of_what_a_probe_raised():
    cells = everywhere()
    cells["gsop", "pruning"] = dict.fromkeys(INITS, "IndexError: index 1 is out of bounds")
    assert {*read(written(cells))["gsop", "pruning"].values()} == {limit("gsop", "pruning")}


@pytest.mark.parametrize("cell", ["", "no", "yes [1]", "maybe [1]"])
def test_a_cell_that_says_nothing_is_not_read(cell):
    page = written(everywhere()).replace("| `se` | yes |", f"| `se` | {cell} |")
    with pytest.raises((ValueError, KeyError)):
        read(page)


def test_a_mechanism_more_is_a_row_more_and_the_others_keep_what_the_page_says(
    tmp_path, monkeypatch
):
    cells, asked = everywhere(), []
    cells["eca", "fx"] = {"identity": "", "paper": "why"}
    page, kept = tmp_path / "page.md", tmp_path / "cells.jsonl"
    page.write_text("".join(x for x in written(cells).splitlines(True) if "`se`" not in x))
    kept.write_text(json.dumps(["se", "fx", HOLDS]) + "\n")
    monkeypatch.setattr(command, "measured", lambda *key: asked.append(key) or HOLDS)
    monkeypatch.setattr(sys, "argv", ["", "se", "--cells", str(kept), "--write", str(page)])
    command.main()
    assert asked == [("se", column) for column in PROBES if column != "fx"]
    assert read(page.read_text()) == cells
    assert len(kept.read_text().splitlines()) == len(PROBES)


def test_a_page_with_an_empty_cell_is_not_written(tmp_path, monkeypatch):
    page = tmp_path / "page.md"
    monkeypatch.setattr(command, "measured", lambda *key: HOLDS)
    monkeypatch.setattr(sys, "argv", ["", "se", "eca", "--write", str(page)])
    with pytest.raises(SystemExit, match=r"nothing is known of .*cbam, script"):
        command.main()
    assert not page.exists()
    assert len(missing({})) == len(mechanisms()) * len(PROBES)
