"""`+1%`, `30M`, `+5%` of latency -> which rows keep the limits, and the order of the rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from attnsurgeon.cost.budgets import Limit, parse_budget
from attnsurgeon.cost.measured import FOR_AN_INTERVAL
from attnsurgeon.errors import CheckFailed, UsageError, nearest
from attnsurgeon.grid.table import FIGURES, MEASURED, Network, Row

LIMITED = (*FIGURES, *MEASURED)
KEYS = ("model", "attn", "where", "sites", *LIMITED, "trained")
_BYTES = {"params": "parameters", "macs": "MACs", "memory": "bytes"}


def read_limits(**texts: str | None) -> dict[str, Limit]:
    """Read `params="+1%"`, `latency="20ms"`: those that are given.

    Raises:
        UsageError: one of them is no limit.
    """
    return {
        figure: parse_budget(text, name=f"max_{figure}")
        for figure, text in texts.items()
        if text is not None
    }


def before_after(row: Row, network: Network, figure: str) -> tuple[float, float] | None:
    """Return a figure before and after surgery; None where it is not known.

    The latency after is the one before times the ratio of the pairs, which is known better.
    """
    if figure in FIGURES:
        return None if row.after is None else (network.figures[figure], row.after[figure])
    if figure == "memory":
        return None if row.memory is None else (row.memory["before"], row.memory["after"])
    if row.forward is None:
        return None
    before = row.forward["before"]["median"]
    return before, before * row.forward["ratio"]["median"]


def breaks(row: Row, network: Network, limits: Mapping[str, Limit]) -> str | None:
    """Return the figure whose limit a row does not keep; None where it keeps all of them.

    What was not measured keeps no limit, and a latency keeps one only where its interval does.
    """
    for figure, limit in limits.items():
        pair = before_after(row, network, figure)
        if pair is None or pair[1] > limit.ceiling(pair[0]) or _undecided(row, figure, limit):
            return figure
    return None


def undecided(row: Row, limits: Mapping[str, Limit]) -> bool:
    """Tell whether the limit on latency lies inside of the interval that was measured."""
    return "latency" in limits and _undecided(row, "latency", limits["latency"])


def _undecided(row: Row, figure: str, limit: Limit) -> bool:
    if figure != "latency" or row.forward is None:
        return False
    before, ratio = row.forward["before"]["median"], row.forward["ratio"]
    if row.forward["pairs"] < FOR_AN_INTERVAL:
        return True
    return before * ratio["low"] <= limit.ceiling(before) < before * ratio["high"]


def apart(
    rows: Iterable[Row], networks: Mapping[str, Network], limits: Mapping[str, Limit]
) -> tuple[list[Row], list[Row]]:
    """Return the rows within the limits, and those left out; what cannot go in stays."""
    kept, out = [], []
    for row in rows:
        fits = row.error is not None or breaks(row, networks[row.model], limits) is None
        (kept if fits else out).append(row)
    return kept, out


def refuse_nothing_left(
    kept: Iterable[Row],
    out: Iterable[Row],
    networks: Mapping[str, Network],
    limits: Mapping[str, Limit],
) -> None:
    """Refuse limits that no row keeps, with the cheapest row of each.

    Raises:
        CheckFailed: there are rows with a price, and all of them are left out.
    """
    out = list(out)
    if not out or any(row.error is None for row in kept):
        return
    said = " and ".join(f"max_{figure} {limit.text}" for figure, limit in limits.items())
    cheapest = [_cheapest(out, networks, figure, limit) for figure, limit in limits.items()]
    raise CheckFailed(
        f"none of {len(out)} rows keeps {said}: the cheapest in {'; in '.join(cheapest)}",
        "take fewer sites, a lighter attention or a higher limit",
    )


def _cheapest(
    rows: Iterable[Row], networks: Mapping[str, Network], figure: str, limit: Limit
) -> str:
    def above(row: Row) -> float:
        pair = before_after(row, networks[row.model], figure)
        return float("inf") if pair is None else float(pair[1] - limit.ceiling(pair[0]))

    row = min(rows, key=above)
    pair = before_after(row, networks[row.model], figure)
    if pair is None:
        return f"{figure} is not known: none was measured"
    return f"{_BYTES.get(figure, figure)} is {row.name} ({_change(figure, *pair)})"


def _change(figure: str, before: float, after: float) -> str:
    percent = f"{100 * (after - before) / before:+.2g} %" if before else f"from {before}"
    if figure == "latency":
        return f"{before * 1e3:.2f} -> {after * 1e3:.2f} ms, {percent}"
    return f"{after - before:+,.0f}, {percent}"


def check_key(key: str) -> str:
    """Return a key to sort by, refuse one that is none.

    Raises:
        UsageError: with the nearest.
    """
    if key.removeprefix("-") not in ("", *KEYS) or key == "-":
        raise UsageError(f"{key!r} is nothing to sort by", nearest(key.lstrip("-"), KEYS))
    return key


def in_order(rows: Iterable[Row], networks: Mapping[str, Network], key: str) -> list[Row]:
    """Return rows sorted by `macs`, or `-macs` for the heaviest first; equal ones as they stood.

    Figures are those after surgery: of one network that is the order of what is added. By
    `trained` the best of a sweep stand first. Rows without the figure come last, however it is
    sorted.
    """
    rows, name = list(rows), check_key(key).removeprefix("-")
    if not name:
        return rows
    if name == "trained":  # the best first, whichever way that is
        lowest = all(_falls(row) for row in rows)
        key = "-" if key.startswith("-") == lowest else ""
    value = _value_of(rows, networks, name)
    known = [row for row in rows if value(row) is not None]
    known.sort(key=value, reverse=key.startswith("-"))
    return known + [row for row in rows if value(row) is None]


def _falls(row: Row) -> bool:
    """Whether what a sweep measured of a row is best where it is lowest."""
    return row.trained is None or row.trained["mode"] == "min"


def _value_of(rows: list[Row], networks: Mapping[str, Network], name: str) -> Callable[[Row], Any]:
    if name in ("model", "attn", "where"):
        return lambda row: getattr(row, name)
    if name == "trained":
        return lambda row: row.trained and row.trained["value"]
    if name == "sites":
        return lambda row: None if row.error is not None else len(row.sites)

    def after(row: Row) -> float | None:
        pair = before_after(row, networks[row.model], name)
        if pair is None or name != "latency":
            return pair and pair[1]
        # Pairs of different rows ran at different times: the ratio compares, their seconds do not.
        return alone[row.model] * pair[1] / pair[0]

    alone: dict[str, float] = {}
    for row in rows:
        if row.forward is not None:
            seconds = row.forward["before"]["median"]
            alone[row.model] = min(seconds, alone.get(row.model, seconds))
    return after
