"""Cells -> docs/portability.md, and back."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch

from attnsurgeon.attention.registry import INITS, lookup, mechanisms
from benchmarks.portability.probes import PROBES, tried
from benchmarks.portability.subject import Subject

Reasons = Mapping[str, str]  # start -> why not, "" where it holds
Cells = dict[tuple[str, str], Reasons]  # (mechanism, column) -> the same of each start

PAGE = Path(__file__).parents[2] / "docs" / "portability.md"
_HEAD = """\
# Portability

What every mechanism can be carried to: a small residual network of torch alone, or for what gates
skips a small U of the same blocks (`benchmarks/portability/network.py`), with the mechanism at its
own placement, its weights moved as by a training. Every cell was run, with both starts, and
compared with the network in plain PyTorch; `yes` says that it held with both. Made by
`python -m benchmarks.portability --write docs/portability.md`, with torch {torch}.

"""


def measured(name: str, column: str) -> Reasons:
    """Runs a probe with both starts and returns what came of it."""
    return {init: tried(PROBES[column], Subject(name, init)) for init in INITS}


def verdict(reasons: Reasons) -> str:
    """Returns what stands in a cell: "yes", "no", or the start with which it holds."""
    holds = [init for init, reason in reasons.items() if not reason]
    return "yes" if len(holds) == len(INITS) else " ".join(holds) or "no"


def limit(name: str, column: str) -> str:
    """Returns what a mechanism's card says of a column: "FX int8, pruning: reason" is of two."""
    for text in lookup(name).limits:
        ways, _, reason = text.partition(": ")
        if column in ways.split(", "):
            return reason
    return ""


def missing(cells: Cells) -> list[str]:
    """Returns which cells a page of all mechanisms would need besides: no cell is empty."""
    return [f"{n}, {c}" for n in mechanisms() for c in PROBES if (n, c) not in cells]


def written(cells: Cells) -> str:
    """Returns the page; every cell that is not "yes" bears the number of its reason.

    The reason is what the card says; what the card is silent about, in the words of the probe.
    """
    notes: dict[str, int] = {}
    rows = [["", *PROBES], ["---", *["---"] * len(PROBES)]]
    for name in mechanisms():
        row = [f"`{name}`"]
        for column in PROBES:
            reasons, said = cells[name, column], limit(name, column)
            why = dict.fromkeys(f"{column}: {said or one}" for one in reasons.values() if one)
            marks = "".join(f" [{notes.setdefault(one, len(notes) + 1)}]" for one in why)
            row.append(verdict(reasons) + marks)
        rows.append(row)
    table = "".join(f"| {' | '.join(row)} |\n" for row in rows)
    how = "".join(f"- **{column}**: {_sentence(column)}\n" for column in PROBES)
    why = "".join(f"{number}. {reason}\n" for reason, number in notes.items())
    version = torch.__version__.partition("+")[0]
    return (
        _HEAD.format(torch=version)
        + table
        + f"\n## What each column does\n\n{how}"
        + (f"\n## Where not, and why\n\n{why}" if why else "")
    )


def read(page: str) -> Cells:
    """Returns the cells of a page as `written` makes it; of a page of other columns, those."""
    lines = [line for line in page.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    notes = dict(re.findall(r"^(\d+)\. [^:]+: (.+)$", page, re.MULTILINE))
    return {
        (row[0].strip("`"), column): _reasons(cell, notes)
        for row in rows[2:]
        for column, cell in zip(rows[0][1:], row[1:], strict=True)
    }


def _reasons(cell: str, notes: Mapping[str, str]) -> Reasons:
    """Returns the reasons behind a cell: each start that does not hold has the next of its notes.

    Raises:
        ValueError: the cell is empty, or bears no note.
    """
    found, *marks = cell.replace("[", "").replace("]", "").split()
    why = [notes[mark] for mark in marks]
    fails = [] if found == "yes" else [init for init in INITS if init != found]
    if found not in ("yes", "no", *INITS) or bool(fails) != bool(why):
        raise ValueError(f"{cell!r} is no cell of this table")
    of = dict(zip(fails, why if len(why) > 1 else why * len(fails), strict=True))
    return {init: of.get(init, "") for init in INITS}


def _sentence(column: str) -> str:
    return " ".join((PROBES[column].__doc__ or "").split())
