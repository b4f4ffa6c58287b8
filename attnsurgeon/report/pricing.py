"""Records of costs -> tables in the terminal: one network, alone or with attention."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console

from attnsurgeon.report import words
from attnsurgeon.report.figures import (
    MEASURED,
    coverage,
    measured_at,
    memory_notes,
    show_cost,
)
from attnsurgeon.report.folding import fold
from attnsurgeon.report.operation import show_refused
from attnsurgeon.report.streams import marks
from attnsurgeon.report.tables import show_facts, show_heading, show_notes, show_table
from attnsurgeon.report.words import count


def show_weight(console: Console, record: Mapping[str, Any]) -> None:
    """Prints what one network weighs, and the modules that weigh most."""
    signs = marks(console)
    size = words.size(record["input_size"], signs.times)
    show_heading(console, f"{record['model']}: {size}")
    total = record["cost"]["before"]
    rows = [["all", *_figures(total)]]
    rows += [[part["path"], *_figures(part)] for part in record["parts"]]
    show_table(console, ["", ">parameters", ">MACs", ">activations"], rows)
    console.print()
    if record["latency"]:
        show_facts(console, _measured(record["latency"]))
        console.print()
    show_notes(console, coverage(record["cost"], None, signs))
    if record["latency"]:
        show_notes(console, _how_measured(record["latency"]))


def _measured(latency: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What was measured of one network."""
    for name, label in MEASURED:
        if latency[name] is not None:
            found = latency[name]["before"]
            q1, median, q3 = (
                words.milliseconds(found[f"{at}_seconds"]) for at in ("q1", "median", "q3")
            )
            yield label, f"{median} ({q1} to {q3})"
    if latency["training_memory"] is not None:
        yield "step memory", words.memory(latency["training_memory"]["before_bytes"])


def _how_measured(latency: Mapping[str, Any]) -> Iterator[str]:
    timed = [(label, latency[name]) for name, label in MEASURED if latency[name] is not None]
    runs = " and ".join(f"{one['pairs']} of a {label}" for label, one in timed)
    spread = f": medians and quartiles of {runs}" if runs else ""
    yield f"{measured_at(latency)}{spread}"
    yield from memory_notes(latency)


def show_difference(console: Console, record: Mapping[str, Any]) -> None:
    """Prints what attention adds to a network, in total and by site."""
    show_heading(console, f"{record['model']} + {record['attn']}: {record['where']}")
    if record["refused"]:
        show_refused(console, record)
        console.print()
    show_cost(console, record)
    console.print()
    show_per_site(console, record["cost"]["per_site"])


def show_per_site(console: Console, per_site: Sequence[Mapping[str, Any]]) -> None:
    """Prints what each site adds; runs of equal ones are one row."""
    signs = marks(console)
    runs = fold(per_site, lambda one: one["site"], lambda one: tuple(_figures(one)))
    rows = [
        [
            run.spelled(signs.to),
            f"{signs.times}{len(run)}" if len(run) > 1 else "",
            *(words.change(run.head[name]) for name in ("params", "macs", "activations")),
        ]
        for run in runs
    ]
    columns = ["each site adds", ">", ">parameters", ">MACs", ">activations"]
    show_table(console, columns, rows)


def _figures(record: Mapping[str, Any]) -> list[str]:
    return [count(record[name]) for name in ("params", "macs", "activations")]
