"""Finished rows -> a file that outlives the process, and back: what a second run does not repeat.

One line a value, `CRC JSON`; the first says whose rows they are. A line is written when its row is
finished, so whatever ends the process costs the one that was being made. A line that was torn or
changed is counted as damaged, and its row is made again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import zlib
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO, Any

from attnsurgeon.errors import UsageError
from attnsurgeon.grid.table import Network, Row
from attnsurgeon.version import __version__

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

FORMAT = 1
_MOST = 64_000_000  # bytes; a row has some kB


def fingerprint(request: Any) -> str:
    """Return what tells one request from another: what it wants, and what makes its rows."""
    versions = {"attnsurgeon": __version__, "format": FORMAT}
    for package in ("torch", "timm", "torchvision"):
        with contextlib.suppress(PackageNotFoundError):
            versions[package] = version(package)
    whole = {"request": request, "versions": versions}
    text = json.dumps(whole, sort_keys=True, default=repr)
    return hashlib.sha256(text.encode()).hexdigest()


def usual_place(request: str) -> Path:
    """Return where the journal of a comparison lies that saves nothing else."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(home) / "attnsurgeon" / "compare" / f"{request[:32]}.jsonl"


class Journal:
    """The finished networks and rows of one request.

    Attributes:
        path: of the file.
        networks: by name.
        rows: by (network, mechanism, placement).
        damaged: lines that could not be read.
    """

    def __init__(self, path: Path, request: str | None, stream: IO[bytes]) -> None:
        self.path = path
        self.networks: dict[str, Network] = {}
        self.rows: dict[tuple[str, str, str], Row] = {}
        self.damaged = 0
        self._request = request
        self._stream = stream

    def add(self, made: Network | Row) -> None:
        """Write down what is finished."""
        kind = "row" if isinstance(made, Row) else "network"
        self._write({kind: made.to_json()})

    def _write(self, value: Mapping[str, Any]) -> None:
        # Its own line whatever stands before: a torn line has no end.
        self._stream.write(b"\n" + _line(value) + b"\n")
        self._stream.flush()

    def _read(self, text: bytes) -> str | None:
        """Takes the lines of a file; returns the request that it is of, None where none is said."""
        request = None
        for line in filter(None, text.split(b"\n")):
            try:
                value = _value(line)
                if "request" in value:
                    request = str(value["request"])
                elif "network" in value:
                    network = Network.of(value["network"])
                    self.networks[network.name] = network
                else:
                    row = Row.of(value["row"])
                    self.rows[row.model, row.attn, row.where] = row
            except (ValueError, KeyError, TypeError, AttributeError):
                self.damaged += 1
        return request

    def begin(self) -> None:
        """Read what is there, or begin.

        Raises:
            UsageError: it is of another request.
        """
        self._stream.seek(0)
        text = self._stream.read(_MOST)
        request = self._read(text)
        if self._request is None:  # whoever adds to what is there, whatever it is of
            return
        # Without its first line nobody knows whose rows these are; without rows nothing is lost.
        if request is None or (request != self._request and not self.rows and not self.damaged):
            self.damaged += len(self.networks) + len(self.rows)
            self.networks.clear()
            self.rows.clear()
            self._stream.truncate(0)
            self._write({"request": self._request, "version": __version__})
        elif request != self._request:
            raise UsageError(
                f"{self.path.parent} holds another comparison, or one of another version",
                "repeat the same request to go on with it, or choose another folder",
            )


@contextlib.contextmanager
def opened(path: Path, request: str | None) -> Iterator[Journal]:
    """Open the journal of a request for as long as it is worked on.

    Args:
        path: of the file; folders above it are made.
        request: its `fingerprint`; None to add to one that is there, whatever it is of.

    Raises:
        UsageError: it cannot be written, another process works on it, or it is of another request.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        stream = path.open("a+b")
    except OSError as error:
        raise UsageError(
            f"{path} cannot be written: {error.strerror}", "choose a folder where you may write"
        ) from error
    with stream:
        if fcntl is not None:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise UsageError(
                    f"another process works on {path.parent}", "wait for it, or end it"
                ) from error
        journal = Journal(path, request, stream)
        journal.begin()
        yield journal


def _line(value: Mapping[str, Any]) -> bytes:
    text = json.dumps(value, default=repr).encode()  # ASCII, so it has no line break
    return b"%08x %s" % (zlib.crc32(text), text)


def _value(line: bytes) -> Any:
    """Returns the value of a line.

    Raises:
        ValueError: it was torn or changed.
    """
    check, _, text = line.partition(b" ")
    if int(check, 16) != zlib.crc32(text):
        raise ValueError("a changed line")
    return json.loads(text)
