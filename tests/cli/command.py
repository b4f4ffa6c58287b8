"""Runs a command line in this process, as a shell would: what it wrote, and its exit code."""

from __future__ import annotations

import contextlib
import io
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attnsurgeon.cli.app import app

# A network small enough to be operated in every test: two residual blocks at two resolutions.
# 32 channels, so that squeeze-and-excitation's default reduction leaves a hidden layer.
TINY = f"{Path(__file__).with_name('tiny.py')}:"


@dataclass(frozen=True)
class Done:
    """What a command did.

    Attributes:
        code: its exit code.
        out, err: what it wrote.
    """

    code: int
    out: str
    err: str

    def json(self) -> Any:
        """The one JSON document that stdout has to be."""
        return json.loads(self.out)


def attnsurgeon(*argv: object) -> Done:
    """Runs `attnsurgeon ARGV`."""
    out, err = io.StringIO(), io.StringIO()
    os.environ.pop("COLUMNS", None)  # pytest-xdist sets it, and lines to a pipe are not to wrap
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            app([str(word) for word in argv], prog_name="attnsurgeon")
            raise AssertionError("a command line ends with SystemExit")
        except SystemExit as end:
            code = end.code
    assert isinstance(code, int)
    return Done(code, out.getvalue(), err.getvalue())
