"""Long work in steps -> a bar or a line on the terminal's stderr; in a file little or nothing."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator

from attnsurgeon.report.streams import err, marks, note, printable

Tell = Callable[[str, int, int], None]
_EVERY = 15.0  # seconds between two lines of a log


@contextlib.contextmanager
def bar(total: int) -> Iterator[Callable[[str, int], None]]:
    """Shows how far work has come; gives a function of what is being done and how much is done.

    Args:
        total: how many steps there are.
    """
    if not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
        yield lambda doing, done: None
        return
    # A table on stdout and a bar on stderr would share one terminal line.
    sys.stdout.flush()
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as Remaining

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        Remaining(),
    )
    with Progress(*columns, console=err(), transient=True) as shown:
        task = shown.add_task("", total=total)

        def step(doing: str, done: int) -> None:
            shown.update(task, description=printable(doing)[:40], completed=done)

        yield step


@contextlib.contextmanager
def telling(doing: str) -> Iterator[Tell]:
    """Shows on stderr how far a command is, for as long as it takes; not inside a `step`.

    Yields:
        A function of (what is done now, how many are done, of how many).
    """
    if sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
        sys.stdout.flush()
        from rich.text import Text

        console = err()
        with console.status(Text(printable(doing)), spinner="line") as status:

            def show(what: str, done: int, of: int) -> None:
                status.update(Text(printable(_said(what, done, of, marks(console).to))))

            yield show
        return
    last = time.monotonic()

    def log(what: str, done: int, of: int) -> None:
        nonlocal last
        if time.monotonic() - last > _EVERY:
            last = time.monotonic()
            note(_said(what, done, of, "..."))

    yield log


def _said(what: str, done: int, of: int, to: str) -> str:
    return f"{what} ({done} of {of}) {to}" if of > 1 else f"{what} {to}"
