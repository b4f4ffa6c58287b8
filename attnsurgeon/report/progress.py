"""Long work in steps -> a bar on the terminal's stderr, and nothing where that is a file."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator

from attnsurgeon.report.streams import err, printable


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
