"""stdout and stderr -> consoles: colour on terminals only, no character the stream cannot hold."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

_UNBOUND = 4000  # columns where no terminal sets a width: nothing wraps, so lines can be searched


@dataclass(frozen=True)
class Marks:
    """The signs of a report; two sets, so that a stream without UTF-8 gets plain ASCII."""

    good: str
    bad: str
    note: str
    to: str
    times: str
    rule: str


UNICODE = Marks(good="✓", bad="✗", note="·", to="…", times="\u00d7", rule="─")
ASCII = Marks(good="ok", bad="!!", note="-", to="..", times="x", rule="-")


def marks(console: Console) -> Marks:
    """Returns the signs that the console's stream can hold."""
    return UNICODE if console.encoding.startswith("utf") else ASCII


def out(width: int | None = None) -> Console:
    """Returns the console for data."""
    return _console(sys.stdout, width)


def err() -> Console:
    """Returns the console for notes and progress."""
    return _console(sys.stderr, None)


def plain() -> bool:
    """Whether the user asked for no colour anywhere; bold and dim go with it."""
    return bool(os.environ.get("NO_COLOR"))


def write_json(document: Any) -> None:
    """Writes one JSON document to stdout; a figure that is no number becomes null."""
    sys.stdout.write(json.dumps(_finite(document), indent=2, allow_nan=False) + "\n")


def write_text(text: str) -> None:
    """Writes text to stdout as it is."""
    replace_what_does_not_fit(sys.stdout)
    sys.stdout.write(text if text.endswith("\n") else f"{text}\n")


def note(text: str) -> None:
    """Writes one note to stderr."""
    replace_what_does_not_fit(sys.stderr)
    sys.stderr.write(f"{text}\n")


@contextlib.contextmanager
def step(doing: str) -> Iterator[None]:
    """Shows on a terminal's stderr what is being done, for as long as it takes; not nested."""
    if not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
        yield
        return
    # A name on stdout and a spinner on stderr would share one terminal line.
    sys.stdout.flush()
    console = err()
    with console.status(f"{doing} {marks(console).to}", spinner=_spinner(console)):
        yield


def _spinner(console: Console) -> str:
    return "dots" if marks(console) is UNICODE else "line"


def _console(stream: IO[str], width: int | None) -> Console:
    from rich.console import Console  # not at the top: a note or a JSON document needs no rich

    replace_what_does_not_fit(stream)
    if width is None and not stream.isatty():
        columns = os.environ.get("COLUMNS", "")
        width = int(columns) if columns.isdecimal() and int(columns) > 0 else _UNBOUND
    return Console(
        file=stream,
        width=width,
        markup=False,
        highlight=False,
        emoji=False,
        color_system=None if plain() else "auto",
    )


def replace_what_does_not_fit(stream: IO[str]) -> None:
    """Lets a path or a message with foreign letters through to a stream that has none."""
    reconfigure = getattr(stream, "reconfigure", None)
    if reconfigure is not None and getattr(stream, "errors", "") == "strict":
        reconfigure(errors="backslashreplace")


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, float) and (value != value or value in (float("inf"), -float("inf"))):
        return None
    return value
