"""Formats a text of Python by ruff, where that is installed."""

from __future__ import annotations

import importlib.util
import io
import json
import re
import subprocess
import sys
import tokenize
from collections.abc import Sequence

_NOQA = re.compile(r"  # noqa: ([A-Z]+[0-9]+(?:, ?[A-Z]+[0-9]+)*).*$", re.MULTILINE)
_WIDTH = 88  # of a line, by default
_FOR_TOOLS = ("# noqa", "# type:", "# pyright:")  # which mean the line that they stand on


def can_format() -> bool:
    """Says whether ruff is installed."""
    return importlib.util.find_spec("ruff") is not None


def _with_exceptions_at_the_head(text: str) -> str:
    """Gathers the rules that lines are excepted from, as the formatter breaks lines elsewhere."""
    codes = sorted({code for found in _NOQA.findall(text) for code in re.split(r",\s*", found)})
    if not codes:
        return text
    text = _NOQA.sub("", text)
    return text.replace(
        "# pyright: basic", f"# ruff: noqa: {', '.join(codes)}\n# pyright: basic", 1
    )


def _with_comments_above(text: str) -> str:
    """Puts comments at the end of lines that are too long on a line of their own, ahead.

    The formatter would break the code in front of such a comment, and join it at the next run.
    """
    lines = text.splitlines()
    for token in reversed(list(tokenize.generate_tokens(io.StringIO(text).readline))):
        row, column = token.start
        code = token.line[:column].rstrip()
        if token.type != tokenize.COMMENT or not code or len(lines[row - 1]) <= _WIDTH:
            continue
        if not token.string.startswith(_FOR_TOOLS):
            indent = " " * (len(code) - len(code.lstrip()))
            lines[row - 1 : row] = [f"{indent}{token.string}", code]
    return "\n".join(lines) + "\n"


def formatted(text: str, *, beside: Sequence[str] = ()) -> str:
    """Returns a text as `ruff format` writes it, under its default settings.

    Without ruff the text stays as it is: it computes the same.

    Args:
        text: of the file.
        beside: modules that lie beside the file; their imports come last.
    """
    if not can_format():
        return text
    text = _with_comments_above(_with_exceptions_at_the_head(text))
    known = f"lint.isort.known-first-party={json.dumps(list(beside))}"
    first_party = ["--isolated", "--config", known]
    for command in (
        ["check", *first_party, "--fix-only", "--quiet", "--select", "I,F401,UP", "-"],
        ["format", "--isolated", "--quiet", "-"],
    ):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command],
            input=text,
            capture_output=True,
            text=True,
            encoding="utf-8",
            check=False,
        )
        text = done.stdout if done.returncode == 0 and done.stdout else text
    return text
