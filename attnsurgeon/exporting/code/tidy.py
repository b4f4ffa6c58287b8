"""Formats a text of Python by ruff, where that is installed."""

from __future__ import annotations

import importlib.util
import subprocess
import sys


def can_format() -> bool:
    """Says whether ruff is installed."""
    return importlib.util.find_spec("ruff") is not None


def formatted(text: str) -> str:
    """Returns a text as `ruff format` writes it, under its default settings.

    Without ruff the text stays as it is: it computes the same.
    """
    if not can_format():
        return text
    formats = ["format", "--isolated", "--quiet", "-"]
    for command in (
        ["check", "--isolated", "--fix-only", "--quiet", "--select", "I,F401,UP", "-"],
        formats,
        formats,  # a comment may find its place at the second time only
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
