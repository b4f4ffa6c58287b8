"""The tutorial is one session: its code runs in order, and prints what is shown."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator
from typing import Any

import pytest
from click.testing import CliRunner

from attnsurgeon.cli.app import app
from tests.test_readme import read

PAGE = "docs/tutorial.md"
GAP = "…"


def session(name: str) -> list[tuple[str, str]]:
    """Every block of a page in its order: its language, and what stands in it."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", read(name), re.MULTILINE | re.DOTALL)


def commands(block: str) -> Iterator[tuple[list[str], list[str]]]:
    """The commands of a block, as words, each with the lines that are shown of its output."""
    for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        command, *shown = part.splitlines()
        yield shlex.split(command), shown


def missing(shown: list[str], printed: str) -> list[str]:
    """The lines that were not printed, or not in this order; a gap stands for any lines.

    What is left out at the end of a shown line may follow in the one that was printed.
    """
    lines = iter([" ".join(line.split()) for line in printed.splitlines()])
    wanted = [" ".join(line.split()) for line in shown if line.strip() != GAP]
    return [want for want in wanted if not any(line.startswith(want) for line in lines)]


def test_every_block_asserts_something_or_shows_what_it_prints():
    blocks = session(PAGE)
    assert {language for language, _ in blocks} == {"python", "console"}
    code = [block for language, block in blocks if language == "python"]
    assert [block for block in code if "assert " not in block] == []
    typed = [block for language, block in blocks if language == "console"]
    shown = [lines for block in typed for _, lines in commands(block)]
    assert len(shown) >= 7
    assert all(any(line.strip() != GAP for line in lines) for lines in shown)


def test_lines_that_are_not_printed_are_found():
    printed = "one  two\nthree\n\nfour five\n"
    assert missing(["one two", GAP, "four"], printed) == []
    assert missing(["three", "one two"], printed) == ["one two"]
    assert missing(["four five six"], printed) == ["four five six"]


@pytest.mark.slow
def test_the_session_runs_and_prints_what_is_shown(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "tutorial"}
    for language, block in session(PAGE):
        if language == "python":
            exec(compile(block, PAGE, "exec"), names)
            continue
        for words, shown in commands(block):
            assert words[0] == "attnsurgeon"
            done = CliRunner().invoke(app, words[1:], env={"COLUMNS": "100"})
            assert done.exit_code == 0, (words, done.output)
            assert missing(shown, done.output) == [], done.output
    assert sorted(os.listdir(tmp_path)) == [
        *("digits-se", "digits-se-trained", "digits.html", "digits.pt2", "digits.pth")
    ]
