"""The record of a status, or of an audit -> what stands where, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console
from rich.text import Text

from attnsurgeon.report import words
from attnsurgeon.report.checks import Went
from attnsurgeon.report.folding import fold
from attnsurgeon.report.streams import marks
from attnsurgeon.report.tables import show, show_heading, show_lines, show_notes, show_table

Site = Mapping[str, Any]


def show_status(console: Console, record: Mapping[str, Any]) -> None:
    """Prints every inserted attention, and what of the network learns."""
    signs = marks(console)
    sites = record["sites"]
    modules = words.several(len(sites), "inserted module")
    names = "+".join(dict.fromkeys(site["attn"] for site in sites))
    show_heading(console, f"{record['model']}{f' + {names}' if names else ''}: {modules}")
    if sites:
        runs = fold(sites, lambda site: site["path"], lambda site: tuple(_row(site)))
        rows = [
            [run.spelled(signs.to), f"{signs.times}{len(run)}" * (len(run) > 1), *_row(run.head)]
            for run in runs
        ]
        columns = ["site", ">", "!attn", ">C", ">params", "!trainable", "!gate", "!runs"]
        if "+" not in names:  # which the heading says
            columns, rows = columns[:2] + columns[3:], [row[:2] + row[3:] for row in rows]
        show_table(console, columns, rows)
        altered = [(signs.bad, "bold red", said) for said in _altered(sites)]
        show_lines(console, altered)
        show_notes(console, [*_legend(sites), *record["notes"]])
        console.print()
    show(console, Text(totals(record), overflow="fold"))


def totals(record: Mapping[str, Any]) -> str:
    """Returns the line that PEFT prints of a network."""
    return (
        f"trainable params: {record['trainable_params']:,} || all params: "
        f"{record['all_params']:,} || trainable%: {record['trainable_percent']:.4f}"
    )


def _row(site: Site) -> list[str]:
    return [
        site["attn"],
        words.count(site["channels"]),
        words.count(site["params"]),
        _trainable(site),
        _gate(site),
        _runs(site),
    ]


def _trainable(site: Site) -> str:
    if site["trainable"] in (0, site["params"]):
        return "-" if not site["params"] else "yes" if site["trainable"] else "frozen"
    return f"{site['trainable']:,} of {site['params']:,}"


def _gate(site: Site) -> str:
    if site["gate"] is None:
        return "-"
    return f"{'g ' if site['blended'] else ''}{site['gate']:.3f}"


def _runs(site: Site) -> str:
    known = {None: "not known", 0: "no", 1: "yes"}
    return known.get(site["runs"], f"{site['runs']} times")


def _altered(sites: list[Site]) -> Iterator[str]:
    for site in sites:
        if site["altered"]:
            yield f"{site['module_path']} is not what was put in: {site['altered']}"


def _legend(sites: list[Site]) -> Iterator[str]:
    if any(site["gate"] is not None and not site["blended"] for site in sites):
        yield "gate: the mean over one random image; 1 lets everything through"
    if any(site["gate"] is not None and site["blended"] for site in sites):
        yield "g: the weight of the blend; 0 leaves what was there before"


def audit_sentences(audited: Mapping[str, Any]) -> Iterator[tuple[Went, str]]:
    """Yields (how it went, what was found)."""
    if audited["dead"]:
        yield "bad", f"inserted modules never run: {words.listed(audited['dead'], at_most=3)}"
    else:
        yield "good", "every inserted module runs"
    for path, what in audited["altered"].items():
        yield "bad", f"{path} is not what was put in: {what}"
    for path, shapes in audited["shared"].items():
        seen = ", ".join(str(tuple(shape)) for shape in shapes)
        yield "note", f"{path} sees several shapes: {seen}"
