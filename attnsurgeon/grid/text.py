"""Grid -> CSV and Markdown: every row, refusals too, for a spreadsheet or a page of text."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Mapping
from typing import Any

from attnsurgeon.grid.limits import before_after
from attnsurgeon.grid.table import FIGURES, Grid, Row

COLUMNS = (
    *("model", "attn", "where", "init", "mechanisms", "identity", "sites"),
    *(f"{name}_{what}" for name in FIGURES for what in ("before", "after", "change", "percent")),
    *("latency_before_s", "latency_after_s", "latency_ratio", "latency_low", "latency_high"),
    *("step_before_s", "step_after_s", "step_ratio", "step_low", "step_high"),
    *("memory_before", "memory_after", "memory_percent"),
    *("metric", "best", "reports", "trials", "failed", "config", "why_not"),
    *("refused_sites", "error", "hint", "folder", "notes"),
)
# What Markdown would take for marks; a line break would end the row.
_MARKS = re.compile(r"([\\`*_{}\[\]<>#|~])")


def as_csv(grid: Grid) -> str:
    """Return a head and a line for each row; figures are plain numbers, unknown ones empty."""
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\n", restval="")
    writer.writeheader()
    for row in grid.rows:
        writer.writerow({k: v for k, v in _cells(grid, row).items() if v is not None})
    return out.getvalue()


def _cells(grid: Grid, row: Row) -> dict[str, Any]:
    made: dict[str, Any] = {
        **{name: getattr(row, name) for name in ("model", "attn", "where", "init", "identity")},
        **{name: getattr(row, name) for name in ("error", "hint", "folder")},
        "mechanisms": "+".join(row.mechanisms),
        "sites": len(row.sites),
        "refused_sites": len(row.refused),
        "notes": "; ".join(row.notes),
    }
    if row.after is not None and row.delta is not None:
        before = grid.network(row).figures
        for name in FIGURES:
            made |= {
                f"{name}_before": before[name],
                f"{name}_after": row.after[name],
                f"{name}_change": row.delta[name],
                f"{name}_percent": row.delta[f"{name}_percent"],
            }
    for name, kind in (("latency", "forward"), ("step", "step")):
        found = row.measured and row.measured[kind]
        if found:
            ratio = found["ratio"]
            made |= {
                f"{name}_before_s": found["before"]["median"],
                f"{name}_after_s": found["after"]["median"],
                f"{name}_ratio": ratio["median"],
                f"{name}_low": ratio["low"],
                f"{name}_high": ratio["high"],
            }
    if row.memory is not None:
        before, after = row.memory["before"], row.memory["after"]
        percent = 100 * (after - before) / before if before else None
        made |= {"memory_before": before, "memory_after": after, "memory_percent": percent}
    if row.trained is not None:
        found = row.trained
        made |= {name: found[name] for name in ("metric", "reports", "trials", "failed")}
        made |= {"best": found["value"], "config": in_words(found["config"])}
        made["why_not"] = found["error"]
    return made


def in_words(config: Mapping[str, Any]) -> str:
    """Return settings as `lr=0.1, epochs=3`."""
    return ", ".join(f"{name}={value}" for name, value in config.items())


def learnt(row: Row) -> str:
    """Return the best value of a sweep as a table has it; "failed" where there is none."""
    if row.trained is None:
        return ""
    value = row.trained["value"]
    return "failed" if value is None else f"{value:.4g}"


def metrics(rows: Iterable[Row]) -> str:
    """Return what a column of trained values is headed with; "" where nothing was trained."""
    return " / ".join(dict.fromkeys(row.trained["metric"] for row in rows if row.trained))


def as_markdown(grid: Grid) -> str:
    """Return a table of the rows with a price, and a list of those without."""
    several = len(grid.networks) > 1
    measured = [kind for kind in ("forward", "memory") if any(getattr(r, kind) for r in grid.done)]
    saved = any(row.folder for row in grid.done)
    metric = metrics(grid.done)
    heads = ["model"] * several + ["attention", "where"] + [escaped(metric)] * bool(metric)
    heads += ["sites", "identity"]
    heads += ["parameters", "", "MACs", "", "activations", ""]
    heads += ["latency"] * ("forward" in measured) + ["step memory"] * ("memory" in measured)
    heads += ["folder"] * saved
    right = {
        escaped(metric),
        "sites",
        "parameters",
        "MACs",
        "activations",
        "",
        "latency",
        "step memory",
    }
    lines = [_line(heads), _line("---:" if head in right else "---" for head in heads)]
    for row in grid.done:
        cells = [escaped(row.model)] * several
        cells += [escaped(row.attn), escaped(row.where)] + [learnt(row)] * bool(metric)
        cells += [f"{len(row.sites)}", str(row.identity)]
        for name in FIGURES:
            cells += _change(grid, row, name)
        cells += [_latency(row)] * ("forward" in measured)
        cells += [_change(grid, row, "memory")[1]] * ("memory" in measured)
        folder = "" if row.folder is None else f"[{escaped(row.folder)}]({row.folder})"
        lines.append(_line(cells + [folder] * saved))
    made = ["\n".join(lines)] if grid.done else []
    made += _networks(grid)
    for row in grid.refusals:
        hint = f" ({escaped(row.hint)})" if row.hint else ""
        made.append(f"- {escaped(row.name)}: {escaped(str(row.error))}{hint}")
    return "\n\n".join(made) + "\n"


def _networks(grid: Grid) -> Iterable[str]:
    for network in grid.networks:
        if network.figures:
            figures = network.figures
            yield (
                f"{escaped(network.name)} as it is: {figures['params']:,} parameters,"
                f" {figures['macs']:,} MACs, {figures['activations']:,} activations (batch 1)"
            )


def _change(grid: Grid, row: Row, figure: str) -> list[str]:
    pair = before_after(row, grid.network(row), figure)
    if pair is None:
        return ["", ""]
    before, after = pair
    percent = f"{100 * (after - before) / before:+.3g} %" if before else ""
    return [
        f"{after - before:+,.0f}" if after != before else "0",
        percent if after != before else "0 %",
    ]


def _latency(row: Row) -> str:
    if row.forward is None:
        return ""
    ratio = row.forward["ratio"]
    return f"x{ratio['median']:.3f} (x{ratio['low']:.3f} to x{ratio['high']:.3f})"


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def escaped(text: str) -> str:
    """Return text that Markdown shows as it is, in one line."""
    return _MARKS.sub(r"\\\1", " ".join(text.split()))
