"""Grid -> one HTML page: what each row costs, drawn and in a table that can be sorted."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from attnsurgeon.report import words
from attnsurgeon.report.figures import FIGURES, coverage
from attnsurgeon.report.markup import render
from attnsurgeon.report.scales import Axis
from attnsurgeon.report.streams import UNICODE

Row = Mapping[str, Any]
_TAG = 24  # letters that are written at a mark


class Comparison(Protocol):
    """What a grid is here: rows as plain values."""

    def to_json(self) -> Mapping[str, Any]:
        """Returns networks and rows."""
        ...


@dataclass(frozen=True)
class Scale:
    """A figure that rows can be drawn by.

    Attributes:
        key, label: of the figure.
        of: what a row has of it in percent of the figure before, None where it has none.
        counted: it is exact, and a column of its own says how much it is.
    """

    key: str
    label: str
    of: Callable[[Row], float | None]
    counted: bool = False


@dataclass(frozen=True)
class Point:
    """A row of the drawing.

    Attributes:
        name, tag: the row in a few words, and in one.
        text: its figures.
        hue: number of the colour of its network.
        at: key -> place in percent of the axis.
        values: key -> the figure.
        best: no other row is better in one of the first two figures and as good in the other.
        row: number of the row of the table.
    """

    name: str
    tag: str
    text: str
    hue: int
    at: Mapping[str, float]
    values: Mapping[str, float]
    best: bool
    row: int


def comparison_page(grid: Comparison) -> str:
    """Returns the comparison as HTML.

    Args:
        grid: `grid.table.Grid`, or what has its `to_json`.
    """
    record = grid.to_json()
    rows = [row for row in record["rows"] if row["error"] is None]
    several = len(record["networks"]) > 1
    scales = [scale for scale in _SCALES if any(scale.of(row) is not None for row in rows)]
    columns, cells = _table(rows, scales, several)
    plot = _plot(record, rows, scales, several)
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
        + "; nothing was trained, so nothing here says which is better.",
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
        notes=[("note", text) for text in _notes(record, rows)],
    )


def _title(record: Mapping[str, Any]) -> str:
    names = [one["name"] for one in record["networks"]]
    return f"Attention for {words.listed(names, at_most=3)}"


def _network_row(one: Mapping[str, Any]) -> list[str]:
    figures = one["figures"] or {}
    counts = [words.count(figures.get(name)) for name, _ in FIGURES]
    return [one["name"], words.size(one["input_size"], UNICODE.times), *counts, one["weights"]]


def _share(name: str) -> Callable[[Row], float | None]:
    return lambda row: row["delta"][f"{name}_percent"] if row["delta"] else None


def _ratio(kind: str) -> Callable[[Row], float | None]:
    def of(row: Row) -> float | None:
        found = row["measured"] and row["measured"][kind]
        return 100 * (found["ratio"]["median"] - 1) if found else None

    return of


def _memory(row: Row) -> float | None:
    found = row["measured"] and row["measured"]["memory"]
    return 100 * (found["after"] / found["before"] - 1) if found and found["before"] else None


_SCALES = (
    Scale("latency", "latency", _ratio("forward")),
    Scale("step", "training step", _ratio("step")),
    Scale("memory", "training memory", _memory),
    Scale("params", "parameters", _share("params"), counted=True),
    Scale("macs", "MACs", _share("macs"), counted=True),
    Scale("activations", "activations", _share("activations"), counted=True),
)


def _table(
    rows: Sequence[Row], scales: Sequence[Scale], several: bool
) -> tuple[list[str], list[list[Any]]]:
    """Returns the heads and the cells; those of figures with the value to sort by."""
    init = any(row["identity"] for row in rows)
    saved = any(row["folder"] for row in rows)
    columns = ["attention", "where", *(["network"] if several else []), ">sites"]
    columns += ["starts as"] if init else []
    for scale in scales:
        columns += [f">{scale.label}"] if scale.counted else []
        columns += [f">{scale.label}, %"]
    columns += ["saved in"] if saved else []
    made = []
    for row in rows:
        cells: list[Any] = [row["attn"], row["where"], *([row["model"]] if several else [])]
        cells += [{"text": words.count(len(row["sites"])), "value": len(row["sites"])}]
        cells += [row["identity"] or ""] if init else []
        for scale in scales:
            if scale.counted:
                delta = row["delta"][scale.key]
                cells.append({"text": words.change(delta), "value": delta})
            cells.append(_percent_cell(row, scale))
        cells += [_folder(row)] if saved else []
        made.append(cells)
    return columns, made


def _percent_cell(row: Row, scale: Scale) -> dict[str, Any]:
    value = scale.of(row)
    if value is None:
        return {"text": "-", "value": ""}
    return {"text": _said(row, scale), "value": repr(float(value))}


def _said(row: Row, scale: Scale) -> str:
    """Returns a figure in words; of what was measured with its interval."""
    kind = {"latency": "forward", "step": "step"}.get(scale.key)
    if kind is None:
        return words.percent(scale.of(row))
    found = row["measured"][kind]
    median, low, high = (100 * (found["ratio"][end] - 1) for end in ("median", "low", "high"))
    unsure = ", undecided" if found["undecided"] else ""
    return f"{median:+.1f} % ({low:+.1f} to {high:+.1f}{unsure})"


def _folder(row: Row) -> str:
    checked = {True: "", False: ", failed its checks", None: ", not checked"}[row["verified"]]
    return f"{row['folder']}{checked}" if row["folder"] else "-"


def _plot(
    record: Mapping[str, Any], rows: Sequence[Row], scales: Sequence[Scale], several: bool
) -> dict[str, Any] | None:
    """Returns the drawing of two figures against each other, None of fewer than two rows."""
    scales = [s for s in scales if all(s.of(row) is not None for row in rows)]
    if len(rows) < 2 or len(scales) < 2:
        return None
    keys = [scale.key for scale in scales]
    x = next(key for key in ("latency", "macs", *keys) if key in keys)
    y = next(key for key in ("params", "macs", *keys) if key in keys and key != x)
    figures = {s.key: [s.of(row) or 0.0 for row in rows] for s in scales}
    axes = {s.key: Axis.over(figures[s.key], even=not s.counted) for s in scales}
    best = front([*zip(figures[x], figures[y], strict=True)])
    hues = {one["name"]: hue for hue, one in enumerate(record["networks"])}
    points = [
        Point(
            _name(row, several),
            textwrap.shorten(row["attn"], _TAG, placeholder="…"),
            ", ".join(f"{scale.label} {_said(row, scale)}" for scale in scales),
            hues.get(row["model"], 7),
            {key: round(axes[key].at(figures[key][number]), 2) for key in keys},
            {key: figures[key][number] for key in keys},
            number in best,
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
        "scales": scales,
        "labels": {scale.key: scale.label for scale in scales},
        "ticks": ticks,
        "points": points,
        "stairs": [*_stairs([points[number] for number in best], x, y)],
        "hues": hues if several else {},
    }


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
    for one, two in zip(best, best[1:], strict=False):
        x1, y1, x2, y2 = one.at[x], 100 - one.at[y], two.at[x], 100 - two.at[y]
        yield x1, y1, x2, y1
        yield x2, y1, x2, y2


def _name(row: Row, several: bool) -> str:
    return f"{row['model']}: {row['attn']} at {row['where']}" if several else (
        f"{row['attn']} at {row['where']}"
    )  # fmt: skip


def _refused(rows: Sequence[Row]) -> Iterator[list[str]]:
    """Yields what cannot go in, and why."""
    for row in rows:
        if row["error"] is not None:
            yield [row["attn"], row["where"], row["model"], row["error"], row["hint"] or ""]


def _left_out(record: Mapping[str, Any]) -> Iterator[str]:
    names = [_name(row, len(record["networks"]) > 1) for row in record["left_out"]]
    if names:
        limits = ", ".join(f"{name} {text}" for name, text in record["limits"].items())
        yield f"left out by {limits}: {words.listed(names, at_most=12)}"


def _notes(record: Mapping[str, Any], rows: Sequence[Row]) -> Iterator[str]:
    said: dict[str, None] = {}
    for one in record["networks"]:
        if one["figures"]:
            cost = {"uncounted": list(one["uncounted"]), "uncounted_calls": one["uncounted"],
                    "notes": one["notes"]}  # fmt: skip
            said |= dict.fromkeys(coverage(cost, None, UNICODE))
    for row in rows:
        said |= {f"{row['attn']}: {note}": None for note in row["notes"]}
        if row["refused"]:
            first = row["refused"][0]
            sites = words.several(len(row["refused"]), "site")
            said[f"{row['attn']} at {row['where']}: {sites} refused, {first['path']}: {first['reason']}"] = None  # noqa: E501
    measured = [row["measured"] for row in rows if row["measured"]]
    if measured:
        how = measured[0]["settings"]
        threads = words.several(how["threads"], "thread")
        said[f"measured in interleaved pairs: medians of the ratio with their 95 % interval; batch "
             f"{how['batch']}, {how['device']}, {how['dtype']}, {threads}"] = None  # fmt: skip
        said |= {f"no training step: {one['why']}": None for one in measured if one["why"]}
    yield from said
