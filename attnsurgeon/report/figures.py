"""The record of a cost -> the table of figures before and after, and what they leave out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console

from attnsurgeon.report import words
from attnsurgeon.report.streams import Marks, marks
from attnsurgeon.report.tables import show_lines, show_notes, show_table

MEASURED = (("forward", "forward"), ("training_step", "training step"))
FIGURES = (("params", "parameters"), ("macs", "MACs"), ("activations", "activations"))
LAYERS = "conv, linear"  # MACs of these alone


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
    if _differs(cost):
        layers = cost["layer_macs"]
        rows.insert(2, counted_row(LAYERS, layers["before"], layers["after"]))
    return [*rows, *measured_rows(latency)] if latency else rows


def _differs(cost: Mapping[str, Any]) -> bool:
    """Whether convolutions and linear layers alone would tell another price."""
    layers = cost.get("layer_macs")  # a saved folder's record has none
    return bool(layers) and layers["after"] - layers["before"] != cost["delta"]["macs"]


def counted_row(label: str, before: int, after: int) -> list[str]:
    """Returns the row of a figure that is counted."""
    percent = 100 * (after - before) / before if before else None
    change = words.change(after - before)
    return [label, words.count(before), words.count(after), change, words.percent(percent)]


def measured_rows(latency: Mapping[str, Any]) -> Iterator[list[str]]:
    """Yields a row for each figure that was measured."""
    for name, label in MEASURED:
        if latency[name] is not None:
            yield _latency_row(label, latency[name])
    memory = latency["training_memory"]
    if memory is not None:
        yield [
            "step memory",
            words.memory(memory["before_bytes"]),
            words.memory(memory["after_bytes"]),
            words.memory_change(memory["delta_bytes"]),
            words.percent(memory["delta_percent"]),
        ]


def _latency_row(label: str, latency: Mapping[str, Any]) -> list[str]:
    ratio = latency["ratio"]
    return [
        label,
        words.milliseconds(latency["before"]["median_seconds"]),
        words.milliseconds(latency["after"]["median_seconds"]),
        f"x{ratio['median']:.3f}",
        f"x{ratio['q1']:.3f} to x{ratio['q3']:.3f}",
    ]


def coverage(
    cost: Mapping[str, Any], latency: Mapping[str, Any] | None, signs: Marks
) -> Iterator[str]:
    """Yields what has to be said of the figures."""
    papers = f"; most papers count {LAYERS} alone" if _differs(cost) else ""
    yield f"MACs: one multiply-add = 1, fvcore's convention; batch 1{papers}"
    if cost["uncounted"]:
        calls = cost.get("uncounted_calls") or dict.fromkeys(cost["uncounted"], 1)
        named = [f"{name} {signs.times}{n}" if n > 1 else name for name, n in calls.items()]
        yield f"without a price: {words.listed(named)}"
    yield from cost["notes"]
    if latency:
        yield from measured_notes(latency)


def measured_notes(latency: Mapping[str, Any]) -> Iterator[str]:
    """Yields how latency and memory were measured, and how well the ratios are known."""
    timed = [(label, latency[name]) for name, label in MEASURED if latency[name] is not None]
    if timed:
        yield f"{measured_at(latency)}: medians of interleaved pairs, and quartiles of their ratio"
    for label, one in timed:
        yield f"{label}: {_known(one, latency['limit_seconds'])}"
    if not timed and latency["training_memory"] is not None:
        yield measured_at(latency)
    yield from memory_notes(latency)


def memory_notes(latency: Mapping[str, Any]) -> Iterator[str]:
    """Yields what the memory of a training step counts, or why there is no such step."""
    if latency["training_memory"] is not None:
        yield f"step memory: {COUNTED[latency['training_memory']['counts']]}"
    if latency["no_training_step"]:
        yield f"no training step: {latency['no_training_step']}"


def measured_at(latency: Mapping[str, Any]) -> str:
    """Returns what was measured with."""
    threads = words.several(latency["threads"], "thread")
    said = f"batch {latency['batch']}, {latency['device']}, {latency['dtype']}, {threads}"
    return f"measured at {said}"


def _known(latency: Mapping[str, Any], seconds: float) -> str:
    """How well a ratio is known."""
    ratio, pairs = latency["ratio"], words.several(latency["pairs"], "pair")
    few = ", too few for a confidence interval"
    sure = " with 95 % confidence" if latency["interval_known"] else few
    said = f"{pairs} put the ratio at x{ratio['low']:.3f} to x{ratio['high']:.3f}{sure}"
    return f"undecided after {seconds:g} s: {said}" if latency["undecided"] else said


COUNTED = {
    "saved tensors": "what autograd saves for the backward pass, beside weights and gradients",
    "allocated": "the most that the device gave out during a step, beside the weights",
}


def heavy(record: Mapping[str, Any]) -> str | None:
    """Returns a warning where the parameters more than double, with what makes them fewer."""
    grown = record["cost"]["delta"]["params_percent"]
    if grown is None or grown <= 100:
        return None
    lighter = [
        f"{card['name']}: {card['lighter']}" for card in record["mechanisms"] if card["lighter"]
    ]
    return "; ".join(["the parameters more than double", *lighter])
