"""Rows of a comparison -> a drawing of two figures against each other, and its front."""

from __future__ import annotations

import itertools
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
        at: key -> place in percent of the axis, of the figures that the row has.
        values: key -> the figure, likewise.
        best: no other row is better in one of the first two figures and as good in the other.
        drawn: it has both of them.
        below: its tag stands below it, so that those of two neighbours do not meet.
        row: number of the row of the table.
    """

    name: str
    tag: str
    text: str
    hue: int
    at: Mapping[str, float]
    values: Mapping[str, float]
    best: bool
    drawn: bool
    below: bool
    row: int


def scatter(
    record: Mapping[str, Any], rows: Sequence[Row], shares: Sequence[Share], several: bool
) -> dict[str, Any] | None:
    """Returns the drawing of two figures against each other, None of fewer than two rows.

    Args:
        record: of the comparison.
        rows: that have a price.
        shares: figures that any of them has.
        several: there are several networks.
    """
    known = {share.key: _figures(rows, share) for share in shares}
    shares = [share for share in shares if len(known[share.key]) > 1]
    if len(shares) < 2:
        return None
    keys = [share.key for share in shares]
    x = next(key for key in ("latency", "macs", *keys) if key in keys)
    y = next(key for key in ("params", "macs", *keys) if key in keys and key != x)
    axes = {s.key: Axis.over([*known[s.key].values()], even=not s.counted) for s in shares}
    drawn = [number for number in known[x] if number in known[y]]
    best = [drawn[at] for at in front([(known[x][number], known[y][number]) for number in drawn])]
    hues = {one["name"]: hue for hue, one in enumerate(record["networks"])}
    points = [
        Point(
            row_name(row, several),
            row["attn"] if len(row["attn"]) <= _TAG else f"{row['attn'][: _TAG - 1]}…",
            ", ".join(f"{s.label} {said(row, s)}" for s in shares if number in known[s.key]),
            hues.get(row["model"], 7),
            {k: round(axes[k].at(known[k][number]), 2) for k in keys if number in known[k]},
            {k: known[k][number] for k in keys if number in known[k]},
            number in best,
            number in drawn,
            number in best[1::2],
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
        "drawn": len(drawn),
        "stairs": [*_stairs([points[number] for number in best], x, y)],
        "hues": hues if several else {},
    }


def _figures(rows: Sequence[Row], share: Share) -> dict[int, float]:
    """Returns number of a row -> its figure, of those that have it."""
    found = ((number, share.of(row)) for number, row in enumerate(rows))
    return {number: figure for number, figure in found if figure is not None}


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
