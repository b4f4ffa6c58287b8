"""The record of a cost -> the table of figures before and after, and what they leave out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console

from attnsurgeon.report import words
from attnsurgeon.report.streams import Marks, marks
from attnsurgeon.report.tables import show_lines, show_notes, show_table

FIGURES = (("params", "parameters"), ("macs", "MACs"), ("activations", "activations"))


def show_cost(console: Console, record: Mapping[str, Any]) -> None:
    """Prints the figures before and after, and what has to be said of them."""
    rows = figure_rows(record["cost"], record["latency"])
    show_table(console, ["!", ">before", ">after", ">change", ">"], rows)
    show_notes(console, coverage(record["cost"], record["latency"], marks(console)))
    warning = heavy(record)
    if warning:
        show_lines(console, [("!", "bold yellow", warning)])


def figure_rows(cost: Mapping[str, Any], latency: Mapping[str, Any] | None) -> list[list[str]]:
    """Returns a row a figure: its name, before, after, difference, percent."""
    rows = [
        [
            label,
            words.count(cost["before"][name]),
            words.count(cost["after"][name]),
            words.change(cost["delta"][name]),
            words.percent(cost["delta"][f"{name}_percent"]),
        ]
        for name, label in FIGURES
    ]
    return [*rows, latency_row(latency)] if latency else rows


def params_row(before: int, after: int) -> list[str]:
    """Returns the row of the parameters, where nothing else is known."""
    percent = 100 * (after - before) / before if before else None
    figures = (words.count(before), words.count(after), words.change(after - before))
    return ["parameters", *figures, words.percent(percent)]


def latency_row(latency: Mapping[str, Any]) -> list[str]:
    """Returns the row of a latency that was measured."""
    before, after, ratios = latency["before"], latency["after"], latency["ratios"]
    return [
        "latency",
        words.milliseconds(before["median"]),
        words.milliseconds(after["median"]),
        f"x{ratios['median']:.3f}",
        f"x{ratios['lower']:.3f} to x{ratios['upper']:.3f}",
    ]


def coverage(
    cost: Mapping[str, Any], latency: Mapping[str, Any] | None, signs: Marks
) -> Iterator[str]:
    """Yields what has to be said of the figures."""
    yield "MACs: one multiply-add = 1, fvcore's convention; batch 1"
    if cost["uncounted"]:
        calls = cost.get("uncounted_calls") or dict.fromkeys(cost["uncounted"], 1)
        named = [f"{name} {signs.times}{n}" if n > 1 else name for name, n in calls.items()]
        yield f"without a price: {words.listed(named)}"
    yield from cost["notes"]
    if latency:
        yield from latency_notes(latency)


def latency_notes(latency: Mapping[str, Any]) -> Iterator[str]:
    """Yields how a latency was measured."""
    low, high = latency["interval"]
    threads = words.several(latency["threads"], "thread")
    yield (
        f"latency: medians, and quartiles of the ratio, of {latency['repeats']} interleaved "
        f"pairs; its median is x{low:.3f} to x{high:.3f} with 95 % confidence; batch "
        f"{latency['batch']}, {latency['device']}, {threads}"
    )


def heavy(record: Mapping[str, Any]) -> str | None:
    """Returns a warning where the parameters more than double, with what makes them fewer."""
    grown = record["cost"]["delta"]["params_percent"]
    if grown is None or grown <= 100:
        return None
    lighter = [
        f"{card['name']}: {card['lighter']}" for card in record["mechanisms"] if card["lighter"]
    ]
    return "; ".join(["the parameters more than double", *lighter])
