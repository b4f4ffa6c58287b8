"""What a long trial has found so far: a file of one JSON line each, read again after a break."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attnsurgeon.errors import UsageError

_FORMAT = "attnsurgeon trial 1"


class Journal:
    """The held-out losses of candidates and seeds, kept in a file as they come in.

    Args:
        path: of the file, which is made where there is none; None keeps them in memory alone.
        about: what the trial is of; another trial's journal is refused.

    Raises:
        UsageError: the file is of another trial, or is no journal.
    """

    def __init__(self, path: str | os.PathLike[str] | None, about: Mapping[str, Any]) -> None:
        self._path = None if path is None else Path(path)
        self._losses: dict[tuple[str, int], float] = {}
        if self._path is None:
            return
        head = {"format": _FORMAT, **about}
        if self._path.exists():
            self._read(self._path, json.loads(json.dumps(head)))
        else:
            self._append(head)

    def __len__(self) -> int:
        return len(self._losses)

    def get(self, key: str, seed: int) -> float | None:
        """The loss that is known of a candidate, or None."""
        return self._losses.get((key, seed))

    def add(self, key: str, seed: int, loss: float) -> None:
        """Keeps a loss; it is in the file when this returns."""
        self._losses[key, seed] = loss
        said = loss if math.isfinite(loss) else None
        self._append({"candidate": key, "seed": seed, "loss": said})

    def _append(self, line: Mapping[str, Any]) -> None:
        if self._path is None:
            return
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise UsageError(
                f"the journal {self._path} cannot be written: {error.strerror}",
                "name another file: journal=FILE",
            ) from error

    def _read(self, path: Path, head: Mapping[str, Any]) -> None:
        try:
            lines = path.read_text(encoding="utf-8").split("\n")
            # What stands behind the last line feed was being written when the process ended.
            first, *others = [json.loads(line) for line in lines[:-1]] or [None]
            if not isinstance(first, dict) or first.get("format") != _FORMAT:
                raise ValueError("no head")
            for line in others:
                loss = math.inf if line["loss"] is None else float(line["loss"])
                self._losses[str(line["candidate"]), int(line["seed"])] = loss
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UsageError(
                f"{path} is no journal of a trial", "name another file: journal=FILE"
            ) from error
        other = [name for name in head if first.get(name) != head[name]]
        if other:
            raise UsageError(
                f"{path} is the journal of another trial: {', '.join(other)} was another",
                "name another file, journal=FILE, or remove this one",
            )
        if lines[-1]:
            path.write_text("\n".join(lines[:-1]) + "\n", encoding="utf-8")
