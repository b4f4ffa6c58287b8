"""stdout and stderr -> consoles: colour on terminals only, no character the stream cannot hold.

All that is printed goes through here. Names come from files and from networks of others, so no
character of them that a terminal obeys reaches one: `printable` spells it out.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

from attnsurgeon.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console

_UNBOUND = 4000  # columns where no terminal sets a width: nothing wraps, so lines can be searched


# C0 but for the tab and the line feed, DEL, C1; marks, embeddings, overrides and isolates of
# direction; line and paragraph separators; halves of surrogate pairs; tags and the byte order mark.
_OBEYED = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff"
    "\U000e0000-\U000e007f]"
)


def printable(text: str) -> str:
    """Returns text in which what a terminal or a browser would obey is spelled as Python does."""
    return _OBEYED.sub(lambda found: ascii(found[0])[1:-1], text)


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


def spoken(console: Console, option: str, keyword: str) -> str:
    """Returns what the reader can type: an option on the command line, a keyword in Python."""
    return keyword if getattr(console, "in_python", False) else option


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
    # Nothing but ASCII, so there is nothing in it that a terminal obeys.
    sys.stdout.write(json.dumps(_finite(document), indent=2, allow_nan=False) + "\n")


def write_text(text: str) -> None:
    """Writes text to stdout."""
    replace_what_does_not_fit(sys.stdout)
    sys.stdout.write(printable(text if text.endswith("\n") else f"{text}\n"))


def note(text: str, *, heading: str = "") -> None:
    """Writes one note to stderr, behind a heading that may have colours of its own."""
    with contextlib.suppress(OSError):  # where it cannot be written, nobody can be told
        replace_what_does_not_fit(sys.stderr)
        sys.stderr.write(f"{heading}{printable(text)}\n")
        sys.stderr.flush()


class Delivery:
    """stdout, for a process of our own: what cannot be written is one message, not a traceback.

    Who has read enough gets no more, which is no error (`| head -1`): the command goes on to its
    end. After a failure the stream leads nowhere, or what it still holds would fail once more when
    the process ends.
    """

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Writes text.

        Raises:
            UsageError: stdout is closed, or on a full disk.
        """
        if text != "":  # click writes nothing to see what a stream takes, and forgives everything
            self._try(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        """Hands on what was written.

        Raises:
            UsageError: as for `write`.
        """
        self._try(self._stream.flush)

    def _try(self, deliver: Callable[[], object]) -> None:
        try:
            deliver()
        except OSError as error:
            with open(os.devnull, "wb") as nowhere:
                os.dup2(nowhere.fileno(), self._stream.fileno())
            if not isinstance(error, BrokenPipeError):
                raise UsageError(
                    f"the output cannot be written: {error.strerror}", "where does stdout lead to?"
                ) from error


def claim_streams() -> None:
    """Makes stdout a `Delivery`, and opens what was closed, so that no file takes its number.

    A closed stdout cannot be written either way; what would go to a closed stderr is dropped.
    """
    for number, name, flag in ((1, "stdout", os.O_RDONLY), (2, "stderr", os.O_WRONLY)):
        if getattr(sys, name) is None:
            opened = os.open(os.devnull, flag)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            setattr(sys, name, open(number, "w", encoding="utf-8", closefd=False))  # noqa: SIM115
    sys.stdout = Delivery(sys.stdout)  # pyright: ignore[reportAttributeAccessIssue]


@contextlib.contextmanager
def step(doing: str) -> Iterator[None]:
    """Shows on a terminal's stderr what is being done, for as long as it takes; not nested."""
    if not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
        yield
        return
    # A name on stdout and a spinner on stderr would share one terminal line.
    sys.stdout.flush()
    from rich.text import Text

    console = err()
    shown = Text(printable(f"{doing} {marks(console).to}"))  # rich takes a plain text for markup
    with console.status(shown, spinner=_spinner(console)):
        yield


def _spinner(console: Console) -> str:
    return "dots" if marks(console) is UNICODE else "line"


def _console(stream: IO[str], width: int | None) -> Console:
    from attnsurgeon.report.screen import Screen  # a note or a JSON document needs no rich

    replace_what_does_not_fit(stream)
    if width is None and not stream.isatty():
        columns = os.environ.get("COLUMNS", "")
        width = int(columns) if columns.isdecimal() and int(columns) > 0 else _UNBOUND
    return Screen(
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
