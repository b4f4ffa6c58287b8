"""Shapes and words -> the text of an SVG file that is readable on a light and on a dark page.

A picture brings its own ground, so that its words stand on the colour that they were chosen for
also where a page's theme is not the one that the browser prefers.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from xml.sax.saxutils import escape

WIDTH = 800
# class -> colour on light, colour on dark; `fill-NAME` and `line-NAME` in a picture.
COLOURS = {
    "ground": ("#ffffff", "#0d1117"),
    "edge": ("#d0d7de", "#30363d"),
    "band": ("#f6f8fa", "#161b22"),
    "ink": ("#1f2328", "#e6edf3"),
    "soft": ("#59636e", "#9198a1"),
    "faint": ("#a5afba", "#555d67"),
    "body": ("#c8d6e8", "#33455e"),
    "blue": ("#0969da", "#58a6ff"),
    "orange": ("#d9580d", "#ff9b54"),
    "purple": ("#8250df", "#bc8cff"),
}
_FONTS = """
text{font-family:system-ui,-apple-system,"Segoe UI",Helvetica,Arial,sans-serif;font-size:12.5px}
.mono{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace}
.bold{font-weight:600}.big{font-size:16px}.small{font-size:11.5px}
.middle{text-anchor:middle}.end{text-anchor:end}
"""


def picture(height: float, title: str, parts: Iterable[str]) -> str:
    """Returns a whole SVG file, `WIDTH` wide."""
    light, dark = (
        "".join(_rules(name, shades[theme]) for name, shades in COLOURS.items()) for theme in (0, 1)
    )
    style = f"{_FONTS.strip()}\n{light}\n@media (prefers-color-scheme: dark){{{dark}}}"
    body = "\n".join(
        [box(0.5, 0.5, WIDTH - 1, height - 1, "fill-ground line-edge", 10), *parts, "</svg>", ""]
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{_n(height)}"'
        f' viewBox="0 0 {WIDTH} {_n(height)}" role="img">\n'
        f"<title>{escape(title)}</title>\n<style>\n{style}\n</style>\n{body}"
    )


def text(x: float, y: float, words: str, classes: str = "fill-ink") -> str:
    """Returns words whose baseline starts at (x, y)."""
    return f'<text x="{_n(x)}" y="{_n(y)}" class="{classes}">{escape(words)}</text>'


def box(x: float, y: float, w: float, h: float, classes: str, radius: float = 3) -> str:
    """Returns a rectangle with round corners."""
    place = f'x="{_n(x)}" y="{_n(y)}" width="{_n(w)}" height="{_n(h)}" rx="{_n(radius)}"'
    return f'<rect {place} class="{classes}"/>'


def dot(x: float, y: float, radius: float, classes: str) -> str:
    """Returns a disc."""
    return f'<circle cx="{_n(x)}" cy="{_n(y)}" r="{_n(radius)}" class="{classes}"/>'


def line(path: str, classes: str, width: float = 1.5) -> str:
    """Returns a stroke along an SVG path."""
    return f'<path d="{path}" class="{classes}" fill="none" stroke-width="{_n(width)}"/>'


def write(folder: Path, name: str, drawn: str) -> None:
    """Writes a picture, and says so."""
    (folder / name).write_text(drawn, encoding="utf-8")
    sys.stdout.write(f"{folder / name}\n")


def _rules(name: str, colour: str) -> str:
    return f".fill-{name}{{fill:{colour}}}.line-{name}{{stroke:{colour}}}"


def _n(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")
