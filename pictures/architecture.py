"""Draws docs/architecture.svg: the wings, what each turns into what, and who imports whom.

    python -m pictures.architecture

Nothing in it is written by hand: the order is that of `tests/test_layering.py`, the sentences are
the first lines of the docstrings, and a dot stands wherever one wing imports another at run time.
"""

from __future__ import annotations

import ast
import textwrap
from collections.abc import Iterator
from itertools import takewhile

from pictures.svg import WIDTH, box, dot, line, picture, text, write
from tests.test_layering import FILES, PACKAGE, WINGS, imported_names, room_of

DOCS = PACKAGE.parent / "docs"
# The way of one network through `insert`, in order; docs/architecture.md tells it.
JOURNEY = ("models", "recording", "sites", "planning", "splicing", "cost", "checks", "saved")
WAY = "one network on its way through insert"
DOORS = ("__init__", "__main__")
LINES = 58  # characters of a sentence in one line
ROW, PITCH = 39, 14.5
LEFT, WORDS, TOP = 22, 160, 78


def wing_of(room: str) -> str:
    """Returns the wing of a room of the layering test."""
    return room.partition(".")[0]


def imports() -> dict[str, set[str]]:
    """Returns for every wing the other wings that it imports at run time."""
    found: dict[str, set[str]] = {wing: set() for wing in WINGS}
    for path in FILES:
        wing = wing_of(room_of(path))
        for name in imported_names(path.read_text(encoding="utf-8")):
            package, _, rest = name.partition(".")
            if package == "attnsurgeon" and rest and wing_of(rest) != wing:
                found[wing].add(wing_of(rest))
    return found


def sentence(wing: str) -> str:
    """Returns the first sentence of a wing's docstring, with arrows as arrows."""
    folder = PACKAGE / wing / "__init__.py"
    source = (folder if folder.is_file() else PACKAGE / f"{wing}.py").read_text(encoding="utf-8")
    first = (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]
    return first.rstrip(".").replace("`", "").replace("->", "→").replace("<→", "↔")


def architecture(used: dict[str, set[str]] | None = None) -> str:
    """Returns the picture of who uses whom, by default of today; the lowest wing at the bottom."""
    used = imports() if used is None else used
    ground = list(takewhile(lambda wing: not (PACKAGE / wing).is_dir(), WINGS))
    floors = [wing for wing in WINGS if wing not in (*ground, *DOORS)]
    bottom = TOP + ROW * len(floors)
    right = WIDTH - 28
    # Where a wing's line rises from: its floor, and a column of its own.
    source = {w: (right - PITCH * n, bottom - ROW * (n + 0.5)) for n, w in enumerate(floors)}
    parts = [
        text(LEFT, 32, "attnsurgeon/", "fill-ink mono bold big"),
        text(LEFT, 53, f"What each wing turns into what. 1 to {len(JOURNEY)}: {WAY}.", "fill-soft"),
        text(right + 6, 32, "A dot: this wing imports the one that", "fill-soft end"),
        text(right + 6, 48, "the line rises from. No line runs down.", "fill-soft end"),
    ]
    bands = range(0, len(floors), 2)
    parts += [box(8, TOP + ROW * n, WIDTH - 16, ROW, "fill-band", 5) for n in bands]
    for wing in floors:
        users = [source[other][1] for other in floors if wing in used[other]]
        parts += _line(*source[wing], users, "blue" if wing in JOURNEY else "faint")
    for wing in floors:
        parts += _floor(wing, *source[wing])
    parts += [
        line(f"M{LEFT} {bottom + 4}H{WIDTH - LEFT}", "line-edge"),
        text(LEFT, bottom + 24, " · ".join(f"{w}.py" for w in ground), "fill-ink mono small"),
        text(right + 6, bottom + 24, "the ground: every wing may use it", "fill-soft end"),
    ]
    return picture(bottom + 44, "The wings of attnsurgeon and who imports whom", parts)


def _line(x: float, y: float, users: list[float], tone: str) -> Iterator[str]:
    if users:
        yield line(f"M{x:g} {y:g}V{min(users):g}", f"line-{tone}", 1.6)
    for user in users:
        yield dot(x, user, 3.2, f"fill-{tone}")


def _floor(wing: str, x: float, y: float) -> Iterator[str]:
    step = JOURNEY.index(wing) + 1 if wing in JOURNEY else None
    yield box(x - 4.5, y - 4.5, 9, 9, f"fill-{'blue' if step else 'soft'}", 2)
    if step:
        yield dot(LEFT + 8, y, 9, "fill-blue")
        yield text(LEFT + 8, y + 4, str(step), "fill-ground bold small middle")
    name = f"{wing}/" if (PACKAGE / wing).is_dir() else f"{wing}.py"
    yield text(LEFT + 24, y + 4.5, name, f"fill-{'ink' if step else 'soft'} mono bold")
    rows = _wrapped(sentence(wing))
    for at, row in enumerate(rows):
        yield text(WORDS, y + 4.5 + 15 * at - 7.5 * (len(rows) - 1), row)


def _wrapped(words: str) -> list[str]:
    """In as few lines as it takes, and these as alike as they can be."""
    fewest = len(textwrap.wrap(words, LINES))
    return next(
        lines
        for width in range(1, LINES + 1)
        if len(lines := textwrap.wrap(words, width)) == fewest and max(map(len, lines)) <= LINES
    )


if __name__ == "__main__":
    write(DOCS, "architecture.svg", architecture())
