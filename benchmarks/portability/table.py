"""Cells -> docs/portability.md, and back."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch

from attnsurgeon.attention.registry import INITS, mechanisms
from benchmarks.portability.probes import PROBES, tried
from benchmarks.portability.subject import Subject

Reasons = Mapping[str, str]  # start -> why not, "" where it holds
Cells = Mapping[tuple[str, str], Reasons]  # (mechanism, column) -> the same of each start

PAGE = Path(__file__).parents[2] / "docs" / "portability.md"
_HEAD = """\
# Portability

What every mechanism can be carried to: a small residual network of torch alone
(`benchmarks/portability/network.py`) with the mechanism at its own placement, its weights moved as
by a training. Every cell was run, with both starts, and compared with the network in plain
PyTorch; `yes` says that it held with both. Made by
`python -m benchmarks.portability --write docs/portability.md`, with torch {torch}.

"""


def measured(names: Iterable[str], columns: Iterable[str]) -> dict[tuple[str, str], Reasons]:
    """Runs probes and returns what came of them."""
    columns = tuple(columns)
    return {
        (name, column): {i: tried(PROBES[column], Subject(name, i)) for i in INITS}
        for name in names
        for column in columns
    }


def verdict(reasons: Reasons) -> str:
    """Returns what stands in a cell: "yes", "no", or the start with which it holds."""
    holds = [init for init, reason in reasons.items() if not reason]
    return "yes" if len(holds) == len(INITS) else " ".join(holds) or "no"


def written(cells: Cells) -> str:
    """Returns the page; every cell that is not "yes" bears the number of its reason.

    A column stands on it when every mechanism was run there: no cell is empty.
    """
    notes: dict[str, int] = {}
    columns = [c for c in PROBES if all((name, c) in cells for name in mechanisms())]
    rows = [["", *columns], ["---", *["---"] * len(columns)]]
    for name in mechanisms():
        row = [f"`{name}`"]
        for column in columns:
            reasons = cells[name, column]
            why = dict.fromkeys(f"{column}: {reason}" for reason in reasons.values() if reason)
            marks = "".join(f" [{notes.setdefault(one, len(notes) + 1)}]" for one in why)
            row.append(verdict(reasons) + marks)
        rows.append(row)
    table = "".join(f"| {' | '.join(row)} |\n" for row in rows)
    how = "".join(f"- **{column}**: {_sentence(column)}\n" for column in columns)
    why = "".join(f"{number}. {reason}\n" for reason, number in notes.items())
    version = torch.__version__.partition("+")[0]
    return (
        _HEAD.format(torch=version)
        + table
        + f"\n## What each column does\n\n{how}"
        + (f"\n## Where not, and why\n\n{why}" if why else "")
    )


def read(page: str) -> dict[tuple[str, str], str]:
    """Returns (mechanism, column) -> verdict of a page."""
    lines = [line for line in page.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    header = rows[0][1:]
    return {
        (row[0].strip("`"), column): re.sub(r" \[\d+\]", "", cell)
        for row in rows[2:]
        for column, cell in zip(header, row[1:], strict=True)
    }


def _sentence(column: str) -> str:
    return " ".join((PROBES[column].__doc__ or "").split())
