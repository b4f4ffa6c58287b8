"""The record of a measurement -> figures, rows and a drawing of the spread."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from attnsurgeon.report import words

_KINDS = (("forward", "forward"), ("step", "training step"))


@dataclass(frozen=True)
class Box:
    """How one ratio of after to before is spread, in percent of the width of the drawing.

    Attributes:
        name: of what.
        left, right: quartiles.
        low, high: ends of the 95 % interval of the median.
        median: of the ratio.
        text: the same in words.
    """

    name: str
    left: float
    right: float
    low: float
    high: float
    median: float
    text: str


@dataclass(frozen=True)
class SpreadView:
    """What a page says of a measurement.

    Attributes:
        cards: large figures.
        rows: name, before, after, ratio, interval, pairs.
        boxes: to draw.
        one: where the ratio 1, no change, lies in the drawing.
        notes: how it was measured.
    """

    cards: tuple[dict[str, str], ...]
    rows: tuple[tuple[str, ...], ...]
    boxes: tuple[Box, ...]
    one: float
    ticks: tuple[tuple[float, str], ...]
    notes: tuple[str, ...]


def spread_view(measured: Mapping[str, Any]) -> SpreadView:
    """Returns what a page says of a measurement.

    Args:
        measured: `cost.measured.Measurement` as plain values.
    """
    runs = [(label, measured[key]) for key, label in _KINDS if measured.get(key)]
    ends = [run["ratio"][name] for _, run in runs for name in ("q1", "q3", "low", "high", "median")]
    least, most = min([1.0, *ends]), max([1.0, *ends])
    room = (most - least) * 0.08 or 0.01
    least, most = least - room, most + room

    def at(ratio: float) -> float:
        return 100 * (ratio - least) / (most - least)

    boxes = [
        Box(label, at(r["q1"]), at(r["q3"]), at(r["low"]), at(r["high"]), at(r["median"]),
            _in_words(run))
        for label, run in runs
        for r in [run["ratio"]]
    ]  # fmt: skip
    ticks = [(at(ratio), text) for ratio, text in _ticks(least, most)]
    return SpreadView(
        tuple(_cards(measured, runs)),
        tuple(_rows(measured, runs)),
        tuple(boxes),
        at(1.0),
        tuple(ticks),
        tuple(_notes(measured)),
    )
