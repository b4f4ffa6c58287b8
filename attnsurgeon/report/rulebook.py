"""Rule files, their tests and their reasons -> tables in the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console

from attnsurgeon.report import words
from attnsurgeon.report.streams import marks
from attnsurgeon.report.tables import show_heading, show_lines, show_notes, show_table


def show_placements(console: Console, placements: Sequence[Mapping[str, str]]) -> None:
    """Prints the names that `--where` takes."""
    rows = [[one["name"], one["message"]] for one in placements]
    show_table(console, ["!name", "sites"], rows)


def show_outcomes(console: Console, files: Sequence[Mapping[str, Any]]) -> None:
    """Prints what came out of the tests of rule files."""
    signs = marks(console)
    for file in files:
        show_heading(console, file["file"])
        if not file["outcomes"]:
            show_notes(console, ["no tests"])
        show_lines(
            console,
            [
                (signs.good, "green", _outcome(one))
                if one["status"] == "ok"
                else (signs.bad, "bold red", _outcome(one))
                for one in file["outcomes"]
            ],
        )
        console.print()
    outcomes = [one for file in files for one in file["outcomes"]]
    failed = [one for one in outcomes if one["status"] != "ok"]
    console.print(
        f"{words.several(len(outcomes), 'outcome')} in {words.several(len(files), 'file')}, "
        f"{len(failed)} failed"
    )


def show_reasons(console: Console, record: Mapping[str, Any]) -> None:
    """Prints why each rule takes or leaves one site."""
    signs = marks(console)
    show_heading(console, record["path"])
    show_lines(
        console,
        [
            (signs.good, "green", f"{one['rule']} takes it")
            if one["takes"]
            else (signs.bad, "yellow", f"{one['rule']} leaves it: {one['reason']}")
            for one in record["rules"]
        ],
    )


def _outcome(one: Mapping[str, str]) -> str:
    status = "" if one["status"] == "ok" else f"{one['status']}: "
    return f"{one['rule']} in {one['model']}: {status}{one['detail']}"
