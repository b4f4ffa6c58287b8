"""Values that print as tables: what these look like is not theirs to say, but the report's.

The package names the module that draws them, which no value imports: values are below all reports.
"""

from __future__ import annotations

import importlib
from typing import Any

_drawn_by: list[str] = []


def drawn_by(module: str) -> None:
    """Names the module whose `as_text` and `as_html` draw every value; imported when one prints."""
    _drawn_by[:] = [module]


class Shown:
    """A value whose repr is a table of bounded size, and HTML in a notebook."""

    def __repr__(self) -> str:
        return _draw("as_text", self)

    def _repr_html_(self) -> str:
        return _draw("as_html", self)


def _draw(how: str, value: Any) -> str:
    return getattr(importlib.import_module(_drawn_by[0]), how)(value)


_COLUMNS = 100  # that a value in one line takes at most


def brief(value: object, text: str) -> str:
    """Returns `<Site layer1.0.bn3: ...>`, the repr of a small value, in one line."""
    line = f"<{type(value).__name__} {' '.join(text.split())}>"
    return line if len(line) <= _COLUMNS else f"{line[: _COLUMNS - 4]}...>"
