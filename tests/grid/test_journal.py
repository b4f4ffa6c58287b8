"""A journal gives back what was written, and no line that was torn or changed."""

import json

import pytest

from attnsurgeon.errors import UsageError
from attnsurgeon.grid.journal import fingerprint, opened, usual_place
from attnsurgeon.grid.table import Network, Row

NET = Network("net", "net", {"a": 1}, "none", (), [3, 5, 7], {"params": 11}, {"relu": 2}, ("n",))
ROWS = [
    Row("net", "se(reduction=8)", "stage", "identity", ("se",), {"reduction": 8}, "native",
        ("a", "b"), ({"path": "c", "rule": "r", "reason": "\u2717 no"},), {"params": 13},
        {"params": 2, "params_percent": None}, {"forward": {"ratio": {"median": 1.5}}}),
    Row("net", "eca", "stem", "identity", error="it\ncannot", hint="try", exit_code=4),
]  # fmt: skip
KEYS = [("net", "se(reduction=8)", "stage"), ("net", "eca", "stem")]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "deep" / "journal.jsonl"
    with opened(path, "mine") as journal:
        for made in (NET, *ROWS):
            journal.add(made)
    return path


def read(path, request="mine"):
    with opened(path, request) as journal:
        return journal


def test_networks_and_rows_come_back_equal(file):
    journal = read(file)
    assert journal.networks == {"net": NET}
    assert journal.rows == dict(zip(KEYS, ROWS, strict=True))
    assert journal.damaged == 0


def test_a_line_that_was_torn_costs_that_row_alone(file):
    text = file.read_bytes()
    file.write_bytes(text[:-9])
    journal = read(file)
    assert (list(journal.rows), journal.damaged) == (KEYS[:1], 1)
    with opened(file, "mine") as journal:  # and what is written behind it is whole
        journal.add(ROWS[1])
    journal = read(file)
    assert (list(journal.rows), journal.damaged) == (KEYS, 1)
    assert journal.rows[KEYS[1]] == ROWS[1]


@pytest.mark.parametrize("at", range(0, 1500, 37))
def test_a_changed_byte_never_changes_a_row(file, at):
    text = bytearray(file.read_bytes())
    at %= len(text)
    text[at] ^= 0x01
    file.write_bytes(bytes(text))
    journal = read(file)
    kept = dict(zip(KEYS, ROWS, strict=True))
    assert all(kept[key] == row for key, row in journal.rows.items())
    assert journal.damaged or len(journal.rows) == 2  # one of the empty lines between


def test_without_its_first_line_nothing_in_it_is_believed(file):
    lines = file.read_bytes().split(b"\n")
    first = next(line for line in lines if b"request" in line)
    file.write_bytes(b"\n".join(line for line in lines if line != first))
    journal = read(file)
    assert (journal.rows, journal.networks, journal.damaged) == ({}, {}, 3)
    assert read(file).damaged == 0  # it was begun anew


def test_the_journal_of_another_request_is_refused_and_kept(file):
    before = file.read_bytes()
    with pytest.raises(UsageError, match="another comparison"):
        read(file, "other")
    assert file.read_bytes() == before


def test_a_request_of_which_nothing_was_finished_stands_in_nobodys_way(tmp_path):
    with opened(tmp_path / "journal.jsonl", "mine") as journal:
        journal.add(NET)
    assert read(tmp_path / "journal.jsonl", "other").networks == {}
    with opened(tmp_path / "journal.jsonl", "other") as journal:
        journal.add(ROWS[1])
    with pytest.raises(UsageError, match="another comparison"):
        read(tmp_path / "journal.jsonl")


def test_two_cannot_write_at_once(file):
    with opened(file, "mine"), pytest.raises(UsageError, match="another process"):
        read(file)
    assert len(read(file).rows) == 2


def test_a_line_of_another_kind_or_of_a_later_version_is_damaged(file):
    with opened(file, "mine") as journal:
        journal._write({"row": {**ROWS[0].to_json(), "colour": "red"}})
        journal._write({"what": 1})
    journal = read(file)
    assert (len(journal.rows), journal.damaged) == (2, 2)


def test_a_folder_that_cannot_be_made_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be written"):
        read(tmp_path / "file" / "journal.jsonl")


def test_fingerprints_differ_with_the_request_and_the_version(monkeypatch):
    one = fingerprint({"a": [1]})
    assert one == fingerprint({"a": [1]})
    assert one != fingerprint({"a": [2]})
    monkeypatch.setattr("attnsurgeon.grid.journal.__version__", "0.0.0")
    assert one != fingerprint({"a": [1]})


def test_the_usual_place_is_the_users_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert usual_place("0" * 64).is_relative_to(tmp_path / "attnsurgeon" / "compare")


def test_a_row_survives_json():
    assert Row.of(json.loads(json.dumps(ROWS[0].to_json()))) == ROWS[0]
    with pytest.raises(ValueError, match="colour"):
        Row.of({"colour": 1})
