"""A slice of what `python -m tests.fuzz` does at night, of other seeds."""

from __future__ import annotations

import pytest

import attnsurgeon
from tests.cli.tiny import net
from tests.fuzz.answers import answer, of_line, of_record, of_rules
from tests.fuzz.mutating import lay_out

FIRST = 1_000_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz").resolve()


@pytest.fixture(scope="module")
def whole(folder):
    return lay_out(folder)


def test_damaged_rule_files_are_answered(tmp_path):
    sites = attnsurgeon.find_sites(net(), input_size=(3, 40, 24))
    wrong = {seed: of_rules(sites, tmp_path, seed) for seed in range(FIRST, FIRST + 100)}
    assert {seed: said for seed, said in wrong.items() if said} == {}


@pytest.mark.slow
def test_random_command_lines_are_answered(folder, whole, monkeypatch):
    monkeypatch.chdir(folder)
    wrong = {seed: of_line(folder, seed) for seed in range(FIRST, FIRST + 100)}
    assert {seed: said for seed, said in wrong.items() if said} == {}


@pytest.mark.slow
def test_damaged_records_are_answered(folder, whole):
    wrong = {seed: of_record(whole, folder / "out", seed) for seed in range(FIRST, FIRST + 100)}
    assert {seed: said for seed, said in wrong.items() if said} == {}


def test_an_answer_that_nobody_should_see_is_noticed():
    def fail():
        raise ZeroDivisionError("ours")

    assert "ZeroDivisionError: ours" in (answer(fail) or "")
    assert answer(lambda: None) is None
