"""What a mechanism was found to keep -> plain values, and the table that the terminal shows."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from attnsurgeon.report import words
from attnsurgeon.report.streams import marks
from attnsurgeon.report.tables import show_heading, show_table

if TYPE_CHECKING:
    from attnsurgeon.contract import Contract


def contract_record(found: Contract) -> dict[str, Any]:
    """Returns what was tried and how it went, as plain values."""
    return {**dataclasses.asdict(found), "ok": found.ok, "problems": list(found.problems)}


def show_contract(console: Console, record: Mapping[str, Any]) -> None:
    """Prints one line for each thing that was tried."""
    signs = marks(console)
    params = "" if record["params"] is None else f", {words.count(record['params'])} parameters"
    show_heading(console, f"{record['name']}: {record['channels']} channels{params}")
    rows = []
    for one in record["findings"]:
        bad = "bold red" if one["needed"] else "yellow"
        sign, style = {
            True: (signs.good, "green"),
            False: (signs.bad, bad),
            None: (signs.note, "dim"),
        }[one["ok"]]
        word = {True: "yes", False: "no", None: "not tried"}[one["ok"]]
        needed = "needed" if one["needed"] else ""
        why = textwrap.shorten(one["detail"], 110, placeholder=" ...")
        rows.append([Text(f"{sign} {word}", style=style), one["name"], needed, why])
    show_table(console, ["!", "!used for", "!", "how, or why not"], rows)
