"""Grid -> one HTML page: what each row costs, drawn and in a table that can be sorted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from attnsurgeon.report import words
from attnsurgeon.report.figures import FIGURES, coverage
from attnsurgeon.report.markup import render
from attnsurgeon.report.scatter import scatter
from attnsurgeon.report.shares import SHARES, Row, Share, row_name, said
from attnsurgeon.report.streams import UNICODE


class Comparison(Protocol):
    """What a grid is here: rows as plain values."""

    def to_json(self) -> Mapping[str, Any]:
        """Returns networks and rows."""
        ...


def comparison_page(grid: Comparison) -> str:
    """Returns the comparison as HTML.

    Args:
        grid: `grid.table.Grid`, or what has its `to_json`.
    """
    record = grid.to_json()
    rows = [row for row in record["rows"] if row["error"] is None]
    several = len(record["networks"]) > 1
    shares = [share for share in SHARES if any(share.of(row) is not None for row in rows)]
    columns, cells = _table(rows, shares, several)
    plot = scatter(record, rows, shares, several)
    refused = [*_refused(record["rows"])]
    left_out = [("note", text) for text in _left_out(record)]
    parts = [("networks", "The networks" if several else "The network")]
    parts += [("plot", "Plot")] if plot else []
    parts += [("rows", "Table")] if rows else []
    parts += [("refused", "Refused")] if refused else []
    return render(
        "comparison.html",
        scripts=("sort.js", "plot.js") if plot else ("sort.js",) if rows else (),
        title=_title(record),
        lead=f"{words.several(len(rows), 'variant')} priced"
        + (f", {len(refused)} refused" if refused else "")
        + _how_far(rows),
        parts=parts,
        network_columns=["network", ">input", *(f">{label}" for _, label in FIGURES), "weights"],
        network_rows=[_network_row(one) for one in record["networks"]],
        init=record["init"],
        limits=[*record["limits"].items()],
        plot=plot,
        columns=columns,
        rows=cells,
        refused=refused,
        left_out=left_out,
        notes=[("note", text) for text in dict.fromkeys(_notes(record, rows))],
    )


def _how_far(rows: Sequence[Row]) -> str:
    trained = sum(row.get("trained") is not None for row in rows)
    if not trained:
        return "; nothing was trained, so nothing here says which is better."
    return f"; {trained} trained."


def _title(record: Mapping[str, Any]) -> str:
    names = [one["name"] for one in record["networks"]]
    return f"Attention for {words.listed(names, at_most=3)}"


def _network_row(one: Mapping[str, Any]) -> list[str]:
    figures = one["figures"] or {}
    counts = [words.count(figures.get(name)) for name, _ in FIGURES]
    return [one["name"], words.size(one["input_size"], UNICODE.times), *counts, one["weights"]]


def _table(
    rows: Sequence[Row], shares: Sequence[Share], several: bool
) -> tuple[list[str], list[list[Any]]]:
    """Returns the heads and the cells; those of figures with the value to sort by."""
    init = any(row["identity"] for row in rows)
    saved = any(row["folder"] for row in rows)
    metric = " / ".join(dict.fromkeys(r["trained"]["metric"] for r in rows if r.get("trained")))
    columns = ["attention", "where", *(["network"] if several else [])]
    columns += [*([f">{metric}"] if metric else []), ">sites"]
    columns += ["starts as"] if init else []
    for share in shares:
        columns += [f">{share.label}"] if share.counted else []
        columns += [f">{share.label}, %"]
    columns += ["saved in"] if saved else []
    made = []
    for row in rows:
        cells: list[Any] = [row["attn"], row["where"], *([row["model"]] if several else [])]
        cells += [_learnt(row)] if metric else []
        cells += [{"text": words.count(len(row["sites"])), "value": len(row["sites"])}]
        cells += [row["identity"] or ""] if init else []
        for share in shares:
            if share.counted:
                delta = row["delta"][share.key]
                cells.append({"text": words.change(delta), "value": delta})
            cells.append(_percent_cell(row, share))
        cells += [_folder(row)] if saved else []
        made.append(cells)
    return columns, made


def _percent_cell(row: Row, share: Share) -> dict[str, Any]:
    value = share.of(row)
    if value is None:
        return {"text": "-", "value": ""}
    return {"text": said(row, share), "value": repr(float(value))}


def _learnt(row: Row) -> dict[str, Any]:
    found = row.get("trained")
    value = found and found["value"]
    if value is None:
        return {"text": "failed" if found else "-", "value": ""}
    return {"text": f"{value:.4g}", "value": repr(float(value))}


def _folder(row: Row) -> str:
    checked = {True: "", False: ", failed its checks", None: ", not checked"}[row["verified"]]
    return f"{row['folder']}{checked}" if row["folder"] else "-"


def _refused(rows: Sequence[Row]) -> Iterator[list[str]]:
    """Yields what cannot go in, and why."""
    for row in rows:
        if row["error"] is not None:
            yield [row["attn"], row["where"], row["model"], row["error"], row["hint"] or ""]


def _left_out(record: Mapping[str, Any]) -> Iterator[str]:
    names = [row_name(row, len(record["networks"]) > 1) for row in record["left_out"]]
    if names:
        limits = ", ".join(f"{name} {text}" for name, text in record["limits"].items())
        yield f"left out by {limits}: {words.listed(names, at_most=12)}"


def _notes(record: Mapping[str, Any], rows: Sequence[Row]) -> Iterator[str]:
    """Yields what has to be said of the figures and of single rows."""
    for one in record["networks"]:
        if one["figures"]:
            calls = one["uncounted"]
            cost = {"uncounted": list(calls), "uncounted_calls": calls, "notes": one["notes"]}
            yield from coverage(cost, None, UNICODE)
    for row in rows:
        yield from (f"{row['attn']}: {note}" for note in row["notes"])
        found = row.get("trained")
        if found and found["error"]:
            yield f"{row_name(row, several=False)}: a trial failed: {found['error']}"
        if row["refused"]:
            first = row["refused"][0]
            sites = words.several(len(row["refused"]), "site")
            of = row_name(row, several=False)
            yield f"{of}: {sites} refused, {first['path']}: {first['reason']}"
    for one in [row["measured"] for row in rows if row["measured"]]:
        how = one["settings"]
        threads = words.several(how["threads"], "thread")
        yield (
            "measured in interleaved pairs: medians of the ratio with their 95 % interval; batch"
            f" {how['batch']}, {how['device']}, {how['dtype']}, {threads}"
        )
        if one["why"]:
            yield f"no training step: {one['why']}"
