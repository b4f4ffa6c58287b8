"""Grids written by hand: what a comparison is made of, as `Grid.to_json` gives it."""

from __future__ import annotations

from typing import Any

BEFORE = {"params": 25_557_032, "macs": 4_111_512_576, "activations": 11_114_984}


class Grid:
    """What has the plain values of a comparison."""

    def __init__(self, **changes: Any) -> None:
        self.record: dict[str, Any] = {
            "init": "identity", "sort": "", "limits": {}, "networks": [network()], "rows": [],
            "left_out": [], **changes,
        }  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        return self.record


def network(name: str = "resnet50", **changes: Any) -> dict[str, Any]:
    """A network as it is."""
    return {
        "name": name, "model": name, "model_args": {}, "weights": "none", "stripped": [],
        "input_size": [3, 224, 224], "figures": BEFORE, "uncounted": {"relu": 49}, "notes": [],
        **changes,
    }  # fmt: skip


def row(attn: str, params: int, macs: int, *, ratio: float | None = None, **changes: Any) -> Any:
    """A mechanism with its price; `ratio` is that of the latency."""
    added = {"params": params, "macs": macs, "activations": 0}
    return {
        "model": "resnet50", "attn": attn, "where": "bottleneck", "init": "identity",
        "mechanisms": [attn], "args": {}, "identity": "native", "sites": ["a", "b"],
        "refused": [], "after": {name: BEFORE[name] + added[name] for name in BEFORE},
        "delta": {**added, **{f"{n}_percent": 100 * added[n] / BEFORE[n] for n in BEFORE}},
        "measured": None if ratio is None else measured(ratio), "notes": [], "error": None,
        "hint": None, "folder": None, "verified": None, "seal": None, "exit_code": None,
        **changes,
    }  # fmt: skip


def refused(attn: str, error: str, **changes: Any) -> Any:
    """A mechanism that cannot go in."""
    nothing = {"sites": [], "after": None, "delta": None, "identity": None}
    why = {"error": error, "hint": "name another placement", "exit_code": 5}
    return {**row(attn, 0, 0), **nothing, **why, **changes}


def measured(ratio: float, **changes: Any) -> dict[str, Any]:
    """A measurement of a forward and a training step, as `Measurement` has it."""
    return {
        "settings": {"batch": 1, "device": "cpu", "dtype": "float32", "threads": 1,
                     "seconds": 60.0},
        "forward": latency(0.05, ratio), "step": latency(0.15, ratio + 0.1),
        "memory": {"before": 104_000_000, "after": 121_000_000, "what": "saved tensors"},
        "why": "", **changes,
    }  # fmt: skip


def latency(seconds: float, ratio: float, **changes: Any) -> dict[str, Any]:
    """Seconds before, after and their ratio, each with its spread."""

    def spread(median: float) -> dict[str, float]:
        return {"median": median, "q1": median * 0.96, "q3": median * 1.05,
                "low": median * 0.99, "high": median * 1.02}  # fmt: skip

    return {"before": spread(seconds), "after": spread(seconds * ratio), "ratio": spread(ratio),
            "pairs": 40, "warm_up": 2, "undecided": False, **changes}  # fmt: skip
