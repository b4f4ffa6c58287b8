"""Trials -> the rows of a grid, with what training found."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from attnsurgeon.grid.limits import in_order
from attnsurgeon.grid.table import Grid
from attnsurgeon.plain import to_plain
from attnsurgeon.sweeping.engine import Trial
from attnsurgeon.sweeping.trials import is_number


def merged(grid: Grid, trials: Iterable[Trial], metric: str, mode: str) -> Grid:
    """Return the grid with what trials found of its variants, the best first.

    Rows of which there is no trial stay as they are.
    """
    by_variant: dict[str, list[Trial]] = {}
    for trial in trials:
        by_variant.setdefault(trial.variant, []).append(trial)
    rows = tuple(
        replace(row, trained=_trained(by_variant[row.folder], metric, mode))
        if row.folder is not None and row.folder in by_variant
        else row
        for row in grid.rows
    )
    networks = {network.name: network for network in grid.networks}
    return replace(grid, rows=tuple(in_order(rows, networks, "trained")), sort="trained")


def _trained(trials: Sequence[Trial], metric: str, mode: str) -> dict[str, Any]:
    known = [trial for trial in trials if is_number(trial.value)]
    choose = max if mode == "max" else min
    best = choose(known, key=lambda trial: trial.value or 0.0) if known else trials[0]
    failed = [trial for trial in trials if trial.error is not None]
    return {
        "metric": metric,
        "mode": mode,
        "value": best.value if known else None,
        "reports": best.reports,
        "seconds": round(best.seconds, 3),
        "config": _shown(best.config),
        "checkpoint": best.checkpoint,
        "trials": len(trials),
        "failed": len(failed),
        "error": failed[0].error if failed else _nothing(best, metric, known),
    }


def _nothing(best: Trial, metric: str, known: Sequence[Trial]) -> str | None:
    """Why there is no value though nothing failed."""
    if known:
        return None
    if not best.done:
        return "it has not ended"
    return f"{metric} was {best.value}, which is no number that compares"


def _shown(config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as JSON holds them; of what it cannot hold, how Python shows it."""
    made = {}
    for name, value in config.items():
        try:
            made[name] = to_plain(value)
        except TypeError:
            made[name] = repr(value)
    return made
