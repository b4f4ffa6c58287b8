"""Rows and lines -> the few shapes that all reports are made of; no line ends in spaces."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.box import Box
from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.segment import Segment, Segments
from rich.table import Table
from rich.text import Text

from attnsurgeon.report.streams import UNICODE, marks, printable

_LINED = Box("    \n    \n \u2500\u2500 \n    \n    \n    \n    \n    \n")
_DASHED = Box("    \n    \n -- \n    \n    \n    \n    \n    \n", ascii=True)
INDENT = 2
_FOLDED = 16  # columns that a cell which may fold keeps at least

Cell = str | Text


def show_heading(console: Console, text: str) -> None:
    """Prints a heading and an empty line."""
    console.print(Text(text, style="bold"), soft_wrap=True)
    console.print()


def show_table(console: Console, columns: Sequence[str], rows: Iterable[Sequence[Cell]]) -> None:
    """Prints a table with a line under its head.

    Args:
        console: where to.
        columns: the heads. `>` in front sets a column to the right, `!` to the left; both keep
            their width on a narrow terminal, the other columns fold.
        rows: a cell for each column.
    """
    made = Table(
        box=_LINED if marks(console) is UNICODE else _DASHED,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),  # with the space between columns that the box has: two
        header_style="bold",
        border_style="dim",
    )
    rows = [[_shown(cell) for cell in row] for row in rows]
    needed = 0
    for index, column in enumerate(columns):
        fixed = column[:1] in (">", "!")
        head = column.lstrip(">!")
        widest = max(len(text) for text in (head, *(row[index] for row in rows)))
        made.add_column(
            head,
            justify="right" if column.startswith(">") else "left",
            no_wrap=fixed,
            min_width=widest if fixed else min(widest, _FOLDED),
            overflow="fold",
        )
        needed += (widest if fixed else min(widest, _FOLDED)) + 2
    for row in rows:
        made.add_row(*row)
    show(console, made, at_least=needed)


def show_facts(console: Console, pairs: Iterable[tuple[str, Cell]]) -> None:
    """Prints names and values in two columns; a long value wraps under itself."""
    made = Table.grid(padding=(0, 2), pad_edge=False)
    made.add_column(style="dim", no_wrap=True)
    made.add_column(overflow="fold")
    for name, value in pairs:
        made.add_row(name, value)
    show(console, made)


def show_lines(console: Console, signs: Iterable[tuple[str, str, str]]) -> None:
    """Prints a line for each (sign, its style, text); a long text wraps under itself."""
    made = Table.grid(padding=(0, 1), pad_edge=False)
    made.add_column(no_wrap=True)
    made.add_column(overflow="fold")
    for sign, style, text in signs:
        made.add_row(Text(sign, style=style), text)
    if made.rows:
        show(console, made)


def show_notes(console: Console, texts: Iterable[str]) -> None:
    """Prints a dim dot and a text for each."""
    show_lines(console, [(marks(console).note, "dim", text) for text in texts])


def show(console: Console, renderable: RenderableType, *, at_least: int = 0) -> None:
    """Prints anything indented, without the spaces that rich fills lines up with.

    Args:
        console: where to.
        renderable: what.
        at_least: the width it needs; on too narrow a terminal its lines run on, which is better
            than digits cut off.
    """
    padded = Padding(renderable, (0, 0, 0, INDENT), expand=False)
    options = console.options.update(width=max(console.width, at_least + INDENT))
    for line in console.render_lines(padded, options, pad=False):
        console.print(Segments([*_stripped(line), Segment.line()]), end="", soft_wrap=True)


def _shown(cell: Cell) -> Cell:
    """A cell as it will stand there, in one line, so that it is measured at its true width."""
    return printable(cell).replace("\n", "\\n") if isinstance(cell, str) else cell


def _stripped(line: list[Segment]) -> list[Segment]:
    kept = list(line)
    while kept and not kept[-1].text.rstrip():
        kept.pop()
    if kept:
        kept[-1] = Segment(kept[-1].text.rstrip(), kept[-1].style)
    return kept
