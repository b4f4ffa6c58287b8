"""The record of a measurement -> figures, rows and a drawing of the spread."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from attnsurgeon.report import words
from attnsurgeon.report.figures import MEASURED, measured_notes
from attnsurgeon.report.scales import ticks


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
        measured: what `measurement_record` returns.
    """
    runs = [(label, measured[key]) for key, label in MEASURED if measured[key]]
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
        tuple(measured_notes(measured)),
    )


def _in_words(run: Mapping[str, Any]) -> str:
    low, high = run["ratio"]["low"], run["ratio"]["high"]
    verdict = "undecided: " if run["undecided"] else ""
    return f"{verdict}{_change(run['ratio']['median'])}, {_change(low)} to {_change(high)}"


def _change(ratio: float) -> str:
    return f"{100 * (ratio - 1):+.1f} %"


def _cards(
    measured: Mapping[str, Any], runs: list[tuple[str, Mapping[str, Any]]]
) -> Iterator[dict[str, str]]:
    for label, run in runs:
        before, after = (_milliseconds(run[when]) for when in ("before", "after"))
        verdict = " (undecided)" if run["undecided"] else ""
        yield {"name": f"{label}, measured{verdict}", "value": _change(run["ratio"]["median"]),
               "change": f"{before} to {after}"}  # fmt: skip
    memory = measured["training_memory"]
    if memory:
        before, after = (words.memory(memory[f"{when}_bytes"]) for when in ("before", "after"))
        yield {"name": "step memory", "value": words.percent(memory["delta_percent"]),
               "change": f"{before} to {after}"}  # fmt: skip


def _rows(
    measured: Mapping[str, Any], runs: list[tuple[str, Mapping[str, Any]]]
) -> Iterator[tuple[str, ...]]:
    for label, run in runs:
        ratio = run["ratio"]
        interval = f"x{ratio['low']:.3f} to x{ratio['high']:.3f}"
        yield (label, _spread(run["before"]), _spread(run["after"]), f"x{ratio['median']:.3f}",
               interval, words.count(run["pairs"]))  # fmt: skip


def _milliseconds(one: Mapping[str, float]) -> str:
    return words.milliseconds(one["median_seconds"])


def _spread(one: Mapping[str, float]) -> str:
    low, high = (1000 * one[f"{end}_seconds"] for end in ("q1", "q3"))
    return f"{_milliseconds(one)} ({low:,.2f} to {high:,.2f})"


def _ticks(least: float, most: float) -> Iterator[tuple[float, str]]:
    """Yields some four round changes between two ratios."""
    for percent in ticks(100 * (least - 1), 100 * (most - 1)):
        yield 1 + percent / 100, f"{percent:+g} %" if percent else "0 %"
