"""Turns everything a user can cause into one clear message, a hint and an exit code."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class SurgeonError(Exception):
    """What failed and where; `hint` names the next step, `exit_code` is the process's answer.

    Args:
        what: one sentence that says what failed and where.
        hint: the nearest right thing to do, or None where there is none.
        command: the same as the command line says it, where that is another: `--partial` for
            `partial=True`.
    """

    exit_code = 1

    def __init__(self, what: str, hint: str | None = None, *, command: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.hint = hint
        self.command = command

    def __str__(self) -> str:
        return f"{self.what}\n  hint: {self.hint}" if self.hint else self.what

    def __reduce__(self):
        return type(self), (self.what, self.hint), {"command": self.command}


class CheckFailed(SurgeonError):
    """A verification, an expectation or a budget refused the operation (exit 1)."""

    exit_code = 1


class UsageError(SurgeonError):
    """The call itself is wrong: a path, an option, an output folder (exit 2)."""

    exit_code = 2


class ModelError(SurgeonError):
    """A model, a checkpoint or an input size cannot be used (exit 3)."""

    exit_code = 3


class RuleError(SurgeonError):
    """A rule file, a placement or a matcher is wrong, or matches nothing (exit 4)."""

    exit_code = 4


class MechanismError(SurgeonError):
    """An attention mechanism is unknown or cannot be built with these arguments (exit 4)."""

    exit_code = 4


def nearest(word: str, known: Iterable[str]) -> str:
    """Returns `did you mean 'x'?` for the closest known words, else the list of all of them."""
    known = sorted(known)
    close = difflib.get_close_matches(word, known, n=3, cutoff=0.5)
    if close:
        return f"did you mean {' or '.join(repr(c) for c in close)}?"
    return f"known: {', '.join(known)}"
