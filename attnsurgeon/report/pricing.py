"""Records of costs -> tables in the terminal: one network, or many mechanisms side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console

from attnsurgeon.report import words
from attnsurgeon.report.figures import (
    FIGURES,
    MEASURED,
    coverage,
    measured_at,
    memory_notes,
    show_cost,
)
from attnsurgeon.report.folding import fold
from attnsurgeon.report.operation import show_refused
from attnsurgeon.report.streams import marks
from attnsurgeon.report.tables import show_facts, show_heading, show_lines, show_notes, show_table
from attnsurgeon.report.words import count

_WIDE = 100  # columns that a comparison of all three figures takes


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


def show_comparison(console: Console, record: Mapping[str, Any]) -> None:
    """Prints what each mechanism would add to one network, and why some cannot be added."""
    signs = marks(console)
    before = record["cost"]["before"]
    show_heading(console, record["model"])
    figures = [f"{count(before[name])} {label}" for name, label in FIGURES]
    show_facts(console, [("as it is", ", ".join(figures)), ("init", record["init"])])
    console.print()
    shown = FIGURES if console.width >= _WIDE else FIGURES[:2]
    columns = ["!attn", "where", ">sites"]
    columns += [head for _, label in shown for head in (f">{label}", ">")]
    rows = [_row(entry, shown) for entry in record["mechanisms"] if entry["error"] is None]
    show_table(console, columns, rows)
    console.print()
    _refused(console, record["mechanisms"])
    if shown != FIGURES:
        show_notes(console, [f"activations: on {_WIDE} columns, or with --json"])
    notes = [f"{entry['attn']}: {n}" for entry in record["mechanisms"] for n in entry["notes"]]
    show_notes(console, [*coverage(record["cost"], None, signs), *notes])


def _row(entry: Mapping[str, Any], shown: Sequence[tuple[str, str]]) -> list[str]:
    delta = entry["delta"]
    row = [entry["attn"], entry["where"], count(len(entry["sites"]))]
    for name, _ in shown:
        row += [words.change(delta[name]), words.percent(delta[f"{name}_percent"])]
    return row


def _refused(console: Console, entries: Sequence[Mapping[str, Any]]) -> None:
    signs = marks(console)
    said = []
    for (error, hint), group in _by_reason(entries).items():
        text = f"{', '.join(group)}: {error}" + (f"; {hint}" if hint else "")
        said.append((signs.bad, "yellow", text))
    for entry in entries:
        if entry["refused"]:
            first = entry["refused"][0]
            sites = words.several(len(entry["refused"]), "site")
            text = f"{entry['attn']}: {sites} refused, {first['path']}: {first['reason']}"
            said.append((signs.bad, "yellow", text))
    if said:
        show_lines(console, said)


def _by_reason(entries: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str | None], list[str]]:
    """Returns (reason, hint) -> the mechanisms that it keeps out."""
    groups: dict[tuple[str, str | None], list[str]] = {}
    for entry in entries:
        if entry["error"] is not None:
            groups.setdefault((entry["error"], entry["hint"]), []).append(entry["attn"])
    return groups


def _figures(record: Mapping[str, Any]) -> list[str]:
    return [count(record[name]) for name in ("params", "macs", "activations")]
