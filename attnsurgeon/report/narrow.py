"""A table that is too wide for its terminal -> lines that fit, with every word and digit of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import RenderableType
from rich.padding import Padding
from rich.text import Text

GAP = 2  # between two columns
INDENT = 2
_FOLDED = 16  # what a cell that may fold keeps at least
_TURNED = 5  # rows of which a table can be turned into columns

Cell = str | Text
Row = Sequence[Cell]


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        head: its head.
        mark: `>` for one that stands to the right, `!` to the left; both keep their width. "" for
            one that folds.
        widest: what its longest cell takes.
    """

    head: str
    mark: str
    widest: int

    @property
    def least(self) -> int:
        """What it takes at least."""
        return self.widest if self.mark else min(self.widest, _FOLDED)


def measured(columns: Sequence[str], rows: Sequence[Row]) -> list[Column]:
    """Returns the columns, from heads with their marks in front."""
    made = []
    for index, column in enumerate(columns):
        mark = column[:1] if column[:1] in (">", "!") else ""
        head = column.removeprefix(mark)
        widest = max(width(text) for text in (head, *(row[index] for row in rows)))
        made.append(Column(head, mark, widest))
    return made


def width(cell: Cell) -> int:
    """Returns how many columns of a terminal a cell takes."""
    return cell_len(cell) if isinstance(cell, str) else cell.cell_len


def fits(columns: Sequence[Column], room: int) -> bool:
    """Whether a table of these columns fits, once what may fold has folded."""
    return sum(column.least for column in columns) + GAP * (len(columns) - 1) <= room


def widths(columns: Sequence[Column], room: int) -> list[int]:
    """Returns the width of each column in a table that fits: the last that may fold fold first."""
    made = [column.widest for column in columns]
    over = sum(made) + GAP * (len(made) - 1) - room
    for i, column in reversed(list(enumerate(columns))):
        given = max(0, min(over, column.widest - column.least))
        made[i] -= given
        over -= given
    return made


def apart(
    columns: Sequence[Column], rows: Sequence[Row], room: int, rule: str
) -> Iterator[RenderableType] | None:
    """Returns rows whose foldable cells have lines of their own; None where that does not fit.

    They stand above the others where the first column is one of them, else below.
    """
    kept = [i for i, column in enumerate(columns) if column.mark]
    folds = [i for i, column in enumerate(columns) if not column.mark]
    above = folds[:1] == [0]
    if not (kept and folds) or not fits([columns[i] for i in kept], room - INDENT * above):
        return None
    return _apart(columns, rows, kept, folds, rule, above=above)


def _apart(
    columns: Sequence[Column],
    rows: Sequence[Row],
    kept: Sequence[int],
    folds: Sequence[int],
    rule: str,
    *,
    above: bool,
) -> Iterator[RenderableType]:
    inner = (0, 0, 0, INDENT)
    heads = [column.head for column in columns]
    for number, row in enumerate([heads, *rows]):
        style = "" if number else "bold"
        words = [Text.assemble(row[i]) for i in folds if row[i]]
        folded = [Text("   ", style=style, overflow="fold").join(words)] if words else []
        line = Text(style=style)
        for i in kept:
            cell = Text.assemble(row[i])
            space = " " * (columns[i].widest - cell.cell_len)
            line.append(" " * (GAP * (i > kept[0])))
            left, right = (space, "") if columns[i].mark == ">" else ("", space)
            line.append(left).append_text(cell).append(right)
        if above:
            yield from (*folded, Padding(line, inner))
        else:
            yield from (line, *(Padding(text, inner) for text in folded))
        if not number:
            under = sum(columns[i].widest for i in kept) + GAP * (len(kept) - 1)
            yield Padding(Text(rule * under, style="dim"), inner if above else 0)


def turned(
    columns: Sequence[Column], rows: Sequence[Row], room: int
) -> tuple[list[Column], list[Row]] | None:
    """Returns the table with its rows for columns.

    None where that does not fit either, and for tables whose rows are not named by their first
    cells alone.
    """
    if columns[0].head or len(rows) > _TURNED:
        return None
    across: list[Row] = [
        [column.head, *(row[i] for row in rows)] for i, column in enumerate(columns) if i
    ]
    made = measured(["!", *(f">{row[0]}" for row in rows)], across)
    return (made, across) if fits(made, room) else None


def stacked(columns: Sequence[Column], rows: Sequence[Row], room: int) -> Iterator[RenderableType]:
    """Yields for each row its first cell, and below it names and values, what fits in each line."""
    for row in rows:
        if row[0]:
            yield Text.assemble(row[0], style="bold", overflow="fold")
        lines = [Text(overflow="fold")]
        for column, cell in zip(columns[1:], row[1:], strict=True):
            if not cell:
                continue
            head = (f"{column.head} ", "dim") if column.head else ""
            pair = Text.assemble(head, cell)
            if lines[-1] and lines[-1].cell_len + GAP + pair.cell_len > room - INDENT:
                lines.append(Text(overflow="fold"))
            lines[-1].append(" " * (GAP * bool(lines[-1]))).append_text(pair)
        yield from (Padding(line, (0, 0, 0, INDENT)) for line in lines if line)
