"""The table of what every mechanism can be carried to is what the probes say."""

import pytest

from attnsurgeon import mechanisms
from benchmarks.portability.probes import PROBES, tried
from benchmarks.portability.subject import Subject
from benchmarks.portability.table import PAGE, measured, read, verdict, written

TABLE = read(PAGE.read_text(encoding="utf-8"))
COLUMNS = tuple(dict.fromkeys(column for _, column in TABLE))
QUICK = [("se", "fx"), ("cbam", "copy + pickle"), ("dia", "copy + pickle"), ("sk", "fx")]


def test_the_table_has_every_mechanism_and_no_empty_cell():
    assert [*dict.fromkeys(name for name, _ in TABLE)] == [*mechanisms()]
    assert {*COLUMNS} <= {*PROBES}
    assert {*TABLE.values()} <= {"yes", "no", "identity", "paper"}


@pytest.mark.parametrize(("name", "column"), QUICK)
def test_a_cell_is_what_its_probe_says(name, column):
    assert verdict(measured([name], [column])[name, column]) == TABLE[name, column]


@pytest.mark.nightly
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("name", list(mechanisms()))
def test_every_cell_is_what_its_probe_says(name, column):
    assert verdict(measured([name], [column])[name, column]) == TABLE[name, column]


def test_what_a_probe_raises_is_a_reason():
    def raising(subject):
        raise ValueError(f"\n  not for {subject.mechanism}\nand more")

    assert tried(raising, Subject("se", "paper")) == "ValueError: not for se"


def test_a_page_is_read_as_it_was_written_and_each_no_has_its_reason():
    holds = {"identity": "", "paper": ""}
    cells = {(name, column): holds for name in mechanisms() for column in ("fx", "script")}
    cells["se", "script"] = {"identity": "", "paper": "it has a word too many"}
    cells["eca", "fx"] = {"identity": "why one", "paper": "why two"}
    page = written(cells)
    found = read(page)
    assert {key: value for key, value in found.items() if value != "yes"} == {
        ("se", "script"): "identity",
        ("eca", "fx"): "no",
    }
    for line in ("fx: why one", "fx: why two", "script: it has a word too many"):
        assert f". {line}\n" in page


def test_a_column_that_is_not_complete_is_left_out():
    holds = {"identity": "", "paper": ""}
    cells = {(name, "fx"): holds for name in mechanisms()} | {("se", "script"): holds}
    assert {column for _, column in read(written(cells))} == {"fx"}
