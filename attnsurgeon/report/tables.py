"""Rows and lines -> the few shapes that all reports are made of; no line ends in spaces."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.box import Box
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.segment import Segment, Segments
from rich.table import Table
from rich.text import Text

from attnsurgeon.report.narrow import (
    GAP,
    INDENT,
    Cell,
    Column,
    Row,
    apart,
    fits,
    measured,
    stacked,
    turned,
    widths,
)
from attnsurgeon.report.streams import UNICODE, Marks, marks, printable

_LINED = Box("    \n    \n \u2500\u2500 \n    \n    \n    \n    \n    \n")
_DASHED = Box("    \n    \n -- \n    \n    \n    \n    \n    \n", ascii=True)


def show_heading(console: Console, text: str) -> None:
    """Prints a heading and an empty line."""
    show(console, Text(text, style="bold", overflow="fold"), indent=0)
    console.print()


def show_table(
    console: Console,
    columns: Sequence[str],
    rows: Iterable[Sequence[Cell]],
    *,
    spare: Sequence[str] = (),
) -> None:
    """Prints a table with a line under its head.

    Where it is too wide for the terminal, what may fold gets lines of its own; a small table of
    figures is turned; and where neither fits, each row becomes lines of names and values.

    Args:
        console: where to.
        columns: the heads. `>` in front sets a column to the right, `!` to the left; both keep
            their width on a narrow terminal, the other columns fold.
        rows: a cell for each column.
        spare: heads of columns to leave out, in this order, until the others fit; a note says so.
    """
    rows = [[_shown(cell) for cell in row] for row in rows]
    gone: list[str] = []
    while len(gone) < len(spare) and not fits(measured(columns, rows), console.width - INDENT):
        gone.append(spare[len(gone)])
        out = [column.lstrip(">!") for column in columns].index(gone[-1])
        columns = [*columns[:out], *columns[out + 1 :]]
        rows = [[*row[:out], *row[out + 1 :]] for row in rows]
    show(console, _laid_out(rows, columns, console))
    if gone:
        show_notes(console, [f"left out on {console.width} columns: {', '.join(gone)}"])


def _laid_out(rows: Sequence[Row], columns: Sequence[str], console: Console) -> RenderableType:
    room, signs = console.width - INDENT, marks(console)
    made = measured(columns, rows)
    rows = [[cell for cell, c in zip(row, made, strict=True) if c.widest] for row in rows]
    made = [column for column in made if column.widest]
    if fits(made, room):
        return _table(made, rows, room, signs)
    lines = apart(made, rows, room, signs.rule)
    if lines is not None:
        return Group(*lines)
    across = turned(made, rows, room)
    if across is not None:
        return _table(*across, room, signs)
    return Group(*stacked(made, rows, room))


def _table(columns: Sequence[Column], rows: Iterable[Row], room: int, signs: Marks) -> Table:
    made = Table(
        box=_LINED if signs is UNICODE else _DASHED,
        show_edge=False,
        pad_edge=False,
        padding=(0, GAP - 1, 0, 0),  # with the space between columns that the box has: two
        header_style="bold",
        border_style="dim",
    )
    for column, taken in zip(columns, widths(columns, room), strict=True):
        made.add_column(
            column.head,
            justify="right" if column.mark == ">" else "left",
            no_wrap=bool(column.mark),
            width=taken,
            overflow="fold",
        )
    for row in rows:
        made.add_row(*row)
    return made


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


def show(console: Console, renderable: RenderableType, *, indent: int = INDENT) -> None:
    """Prints anything indented, without the spaces that rich fills lines up with."""
    padded = Padding(renderable, (0, 0, 0, indent), expand=False)
    for line in console.render_lines(padded, console.options, pad=False):
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
