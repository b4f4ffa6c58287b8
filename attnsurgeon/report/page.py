"""The record of an operation -> one HTML page that needs no other file and runs no script."""

from __future__ import annotations

import html
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from attnsurgeon.report import words
from attnsurgeon.report.checks import sentences
from attnsurgeon.report.figures import coverage, figure_rows, heavy
from attnsurgeon.report.operation import (
    fold_sites,
    init_text,
    next_lines,
    refusals,
    refused_heading,
    site_notes,
    site_rows,
    title,
    weights_text,
    where_text,
)
from attnsurgeon.report.streams import UNICODE, printable
from attnsurgeon.version import __version__


def page(record: Mapping[str, Any]) -> str:
    """Returns the report of an operation as HTML."""
    name = escape(title(record))
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en">',
            '<head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{name}</title>",
            f"<style>\n{_style()}</style></head>",
            "<body>",
            f"<h1>{name}</h1>",
            *_body(record),
            f"<footer>attnsurgeon {escape(__version__)}</footer>",
            "</body>",
            "</html>",
            "",
        ]
    )


def escape(text: str) -> str:
    """Returns text as HTML that a browser shows letter by letter."""
    return html.escape(printable(text))


def _style() -> str:
    return Path(__file__).with_name("page.css").read_text(encoding="utf-8")


def _body(record: Mapping[str, Any]) -> Iterator[str]:
    yield _facts(record)
    yield "<h2>Price</h2>"
    yield from _figures(record)
    yield f"<h2>{escape(words.several(len(record['sites']), 'site'))}</h2>"
    runs = fold_sites(record["sites"])
    head, rows = site_rows(runs, UNICODE)
    yield _table(head, rows)
    said = [*site_notes(runs, UNICODE), *record["notes"]]
    yield _list((("note", text) for text in said), "notes")
    if record["refused"]:
        yield f"<h2>{escape(refused_heading(record).capitalize())}</h2>"
        yield _list(("bad", text) for text in refusals(record, UNICODE))
    if record["verification"]:
        yield "<h2>Verification</h2>"
        yield _list(sentences(record["verification"], UNICODE.times))
    if record["output"]:
        yield "<h2>Go on</h2>"
        yield f"<pre><code>{escape(chr(10).join(next_lines(record)))}</code></pre>"


def _facts(record: Mapping[str, Any]) -> str:
    text, style = weights_text(record)
    kind = {"bold yellow": "loud", "green": "trained"}.get(style, "")
    rows = [("weights", f'<span class="{kind}">{escape(text)}</span>')]
    if record["model_args"]:
        given = ", ".join(f"{name}={value!r}" for name, value in record["model_args"].items())
        rows.append(("built with", escape(given)))
    rows.append(("input", escape(words.size(record["input_size"], UNICODE.times))))
    for card in record["mechanisms"]:
        link = f' (<a href="{escape(card["paper"])}">{escape(card["venue"])}</a>)'
        link = link if card["paper"] else ""  # of the user's own mechanism there is none
        rows.append(("attention", f"{escape(card['name'])}: {escape(card['title'])}{link}"))
    rows.append(("where", escape(where_text(record))))
    rows.append(("init", escape(init_text(record))))
    return "<dl>" + "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in rows) + "</dl>"


def _figures(record: Mapping[str, Any]) -> Iterator[str]:
    cost, latency = record["cost"], record["latency"]
    cards = [
        f'<div class="figure">{escape(name)}<b>{escape(after)}</b>'
        f"<span>{escape(change)} ({escape(percent)})</span><span>from {escape(before)}</span></div>"
        for name, before, after, change, percent in figure_rows(cost, latency)
    ]
    yield f'<div class="figures">{"".join(cards)}</div>'
    yield _list((("note", text) for text in coverage(cost, latency, UNICODE)), "notes")
    warning = heavy(record)
    if warning:
        yield f'<p><span class="loud">{escape(warning)}</span></p>'


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Returns a table; the heads are marked as `show_table` has them."""
    kinds = [' class="right"' if column.startswith(">") else "" for column in columns]
    kinds[0] = ' class="path"'
    head = "".join(
        f"<th{kind}>{escape(column.lstrip('>!'))}</th>"
        for kind, column in zip(kinds, columns, strict=True)
    )
    body = "".join(
        "<tr>"
        + "".join(f"<td{k}>{escape(cell)}</td>" for k, cell in zip(kinds, row, strict=True))
        + "</tr>"
        for row in rows
    )
    return f'<div class="wide"><table><tr>{head}</tr>{body}</table></div>'


def _list(items: Iterable[tuple[str, str]], kind: str = "") -> str:
    lines = "".join(f'<li class="{went}">{escape(text)}</li>' for went, text in items)
    return f'<ul class="{kind}">{lines}</ul>'
