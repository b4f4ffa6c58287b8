"""What an option's text stands for: `k=v` pairs, input sizes, names to complete."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import click

from attnsurgeon.errors import SurgeonError, nearest


class Pair(click.ParamType):
    """`name=value`, the value read as YAML reads a scalar or a list: 8, 0.1, true, [3, 5]."""

    name = "name=value"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, Any]:
        """Returns (name, value)."""
        if isinstance(value, tuple):
            return value
        name, equals, text = value.partition("=")
        if not equals or not name.isidentifier():
            self.fail(f"{value!r} is not name=value", param, ctx)
        return name, self._read(text, param, ctx)

    def _read(self, text: str, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not text.strip():
            return text
        from attnsurgeon.rules.document import read_document  # yaml, for those who need it

        try:
            return read_document(text, source="value").data
        except SurgeonError as error:
            return self.fail(str(error), param, ctx)


class Scalars(click.ParamType):
    """One value or several with commas between them, numbers or text."""

    name = "a,b"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Returns the value, or a tuple of several."""
        if not isinstance(value, str):
            return value
        parts = [part.strip() for part in value.split(",")]
        if not all(parts):
            self.fail(f"{value!r} has an empty part", param, ctx)
        read = tuple(int(p) if re.fullmatch(r"[-+]?\d{1,18}", p) else p for p in parts)
        return read[0] if len(read) == 1 else list(read)


class PathName(click.Path):
    """A path; what is there is looked at by the library."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Returns the path; no system has one with a null byte."""
        if "\0" in os.fspath(value):
            self.fail(f"{value!r} has a null byte", param, ctx)
        return os.fspath(value)


class Size(click.ParamType):
    """`3,224,224` or `3x224x224`: channels first, without the batch; of a vector `10,`."""

    name = "C,H,W"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        """Returns the sizes."""
        if isinstance(value, tuple):
            return value
        parts = re.split(r"\s*[,x\u00d7]\s*", value.strip())
        vector = len(parts) == 2 and not parts[1]
        parts = parts[:1] if vector else parts
        whole = all(part.isdecimal() and len(part) <= 18 and int(part) > 0 for part in parts)
        if not whole or (len(parts) < 2 and not vector):
            self.fail(f"{value!r} is not a size; channels first: 3,224,224", param, ctx)
        return tuple(int(part) for part in parts)


class Numbers(click.ParamType):
    """`0.5` or `0.485,0.456,0.406`: numbers with commas between them.

    Args:
        whole: only whole ones.
    """

    name = "numbers"

    def __init__(self, *, whole: bool = False) -> None:
        self.whole = whole

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, ...]:
        """Returns the numbers."""
        if isinstance(value, tuple):
            return value
        try:
            return tuple((int if self.whole else float)(part) for part in value.split(","))
        except ValueError:
            what = "whole numbers" if self.whole else "numbers"
            self.fail(f"{value!r} is not {what} with commas between them", param, ctx)


class Names(click.ParamType):
    """`a,b,c`: names with commas between them."""

    name = "a,b,c"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        """Returns the names, each once."""
        if isinstance(value, tuple):
            return value
        names = [part.strip() for part in value.split(",")]
        if not all(names):
            self.fail(f"{value!r} has an empty name", param, ctx)
        return tuple(dict.fromkeys(names))


class Listed(click.ParamType):
    """`a,b(c=1,d=2)`: words with commas between them; what stands in brackets stays together."""

    name = "a,b,c"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        """Returns the words, each once."""
        if isinstance(value, tuple):
            return value
        if os.path.exists(value):  # a file whose name has a comma
            return (value,)
        from attnsurgeon.grid.spelling import split

        words = split(value)
        if not all(words):
            self.fail(f"{value!r} has an empty name", param, ctx)
        return tuple(dict.fromkeys(words))


def as_mapping(pairs: tuple[tuple[str, Any], ...], option: str) -> dict[str, Any]:
    """Returns the pairs of an option that may be given several times; a name twice is refused."""
    names = [name for name, _ in pairs]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise click.UsageError(f"{option} {twice} is given twice")
    return dict(pairs)


def complete_where(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Completes the names of placements."""
    from attnsurgeon.rules.placements import PAPER, shipped_names

    return [name for name in (*shipped_names(), PAPER) if name.startswith(incomplete)]


def complete_attn(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Completes the names of mechanisms; after a comma the next one."""
    done, comma, word = incomplete.rpartition(",")
    return [done + comma + name for name in registered_names() if name.startswith(word)]


def matching(
    patterns: tuple[str, ...], names: Iterable[str], noun: str, kind: type[SurgeonError]
) -> list[str]:
    """Returns the names that any of the patterns stands for, in their order; all without patterns.

    Raises:
        SurgeonError: of the `kind`, a pattern stands for none.
    """
    names = list(names)
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise kind(f"no {noun} is called {pattern!r}", nearest(pattern.strip("*?"), names))
    return [name for name in names if not patterns or any(fnmatchcase(name, p) for p in patterns)]


def registered_names() -> list[str]:
    """Returns the names of all mechanisms, read from their files: importing them takes seconds."""
    folder = Path(__file__).parents[1] / "attention"
    found = [
        re.search(r'^@mechanism\(\s*"([^"]+)"', file.read_text(encoding="utf-8"), re.MULTILINE)
        for file in folder.glob("*/*.py")
    ]
    return sorted(match[1] for match in found if match)
