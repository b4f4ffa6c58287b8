"""Rows of a comparison -> a drawing of two figures against each other, and its front."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from attnsurgeon.report.scales import Axis
from attnsurgeon.report.shares import Row, Share, row_name, said

_TAG = 24  # letters that are written at a mark


@dataclass(frozen=True)
class Point:
    """A row of the drawing.

    Attributes:
        name, tag: the row in a few words, and in one.
        text: its figures.
        hue: number of the colour of its network.
        at: key -> place in percent of the axis.
        values: key -> the figure.
        best: no other row is better in one of the first two figures and as good in the other.
        row: number of the row of the table.
    """

    name: str
    tag: str
    text: str
    hue: int
    at: Mapping[str, float]
    values: Mapping[str, float]
    best: bool
    row: int


def scatter(
    record: Mapping[str, Any], rows: Sequence[Row], shares: Sequence[Share], several: bool
) -> dict[str, Any] | None:
    """Returns the drawing of two figures against each other, None of fewer than two rows."""
    shares = [share for share in shares if all(share.of(row) is not None for row in rows)]
    if len(rows) < 2 or len(shares) < 2:
        return None
    keys = [share.key for share in shares]
    x = next(key for key in ("latency", "macs", *keys) if key in keys)
    y = next(key for key in ("params", "macs", *keys) if key in keys and key != x)
    figures = {s.key: [s.of(row) or 0.0 for row in rows] for s in shares}
    axes = {s.key: Axis.over(figures[s.key], even=not s.counted) for s in shares}
    best = front([*zip(figures[x], figures[y], strict=True)])
    hues = {one["name"]: hue for hue, one in enumerate(record["networks"])}
    points = [
        Point(
            row_name(row, several),
            textwrap.shorten(row["attn"], _TAG, placeholder="…"),
            ", ".join(f"{share.label} {said(row, share)}" for share in shares),
            hues.get(row["model"], 7),
            {key: round(axes[key].at(figures[key][number]), 2) for key in keys},
            {key: figures[key][number] for key in keys},
            number in best,
            number,
        )
        for number, row in enumerate(rows)
    ]
    ticks = {
        key: [[round(axis.at(tick), 2), _written(tick)] for tick in axis.ticks()]
        for key, axis in axes.items()
    }
    return {
        "x": x,
        "y": y,
        "shares": shares,
        "labels": {share.key: share.label for share in shares},
        "ticks": ticks,
        "points": points,
        "stairs": [*_stairs([points[number] for number in best], x, y)],
        "hues": hues if several else {},
    }


def _written(tick: float) -> str:
    return f"{tick:+.12f}".rstrip("0").rstrip(".") if tick else "0"


def front(pairs: Sequence[tuple[float, float]]) -> list[int]:
    """Returns the pairs that no other beats: is less in one and no more in the other; in order."""
    order = sorted(range(len(pairs)), key=lambda number: pairs[number])
    kept: list[int] = []
    for number in order:
        if not kept or pairs[number][1] < pairs[kept[-1]][1] or pairs[number] == pairs[kept[-1]]:
            kept.append(number)
    return kept


def _stairs(best: Sequence[Point], x: str, y: str) -> Iterator[tuple[float, float, float, float]]:
    """Yields the lines between the best: along, then down."""
    for one, two in itertools.pairwise(best):
        x1, y1, x2, y2 = one.at[x], 100 - one.at[y], two.at[x], 100 - two.at[y]
        yield x1, y1, x2, y1
        yield x2, y1, x2, y2
