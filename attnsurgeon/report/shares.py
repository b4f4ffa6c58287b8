"""Rows of a comparison -> what each adds in percent, as figures and in words."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from attnsurgeon.report import words

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Share:
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


def _counted(name: str) -> Callable[[Row], float | None]:
    return lambda row: row["delta"][f"{name}_percent"] if row["delta"] else None


def _ratio(kind: str) -> Callable[[Row], float | None]:
    def of(row: Row) -> float | None:
        found = row["measured"] and row["measured"][kind]
        return 100 * (found["ratio"]["median"] - 1) if found else None

    return of


def _memory(row: Row) -> float | None:
    found = row["measured"] and row["measured"]["memory"]
    return 100 * (found["after"] / found["before"] - 1) if found and found["before"] else None


SHARES = (
    Share("latency", "latency", _ratio("forward")),
    Share("step", "training step", _ratio("step")),
    Share("memory", "training memory", _memory),
    Share("params", "parameters", _counted("params"), counted=True),
    Share("macs", "MACs", _counted("macs"), counted=True),
    Share("activations", "activations", _counted("activations"), counted=True),
)


def said(row: Row, share: Share) -> str:
    """Returns a figure in words; of what was measured with its interval."""
    kind = {"latency": "forward", "step": "step"}.get(share.key)
    if kind is None:
        return words.percent(share.of(row))
    found = row["measured"][kind]
    median, low, high = (100 * (found["ratio"][end] - 1) for end in ("median", "low", "high"))
    unsure = ", undecided" if found["undecided"] else ""
    return f"{median:+.1f} % ({low:+.1f} to {high:+.1f}{unsure})"


def row_name(row: Row, several: bool) -> str:
    """Returns a row in a few words, with its network where there are several."""
    of = f"{row['model']}: " if several else ""
    return f"{of}{row['attn']} at {row['where']}"
