"""Suggestion -> a picture of its Pareto front: what is gained against what it costs.

The only door to matplotlib, an extra: `pip install "attnsurgeon[pictures]"`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attnsurgeon.errors import UsageError
from attnsurgeon.saved.file import check_file, new_file

if TYPE_CHECKING:
    from attnsurgeon.searching.suggestion import Point, Suggestion

FORMS = (".svg", ".png")
_NAMES = {
    "params": "parameters",
    "macs": "MACs",
    "activations": "activations",
    "latency": "latency, estimated",
}
_DOTS, _CHOSEN, _LIMIT = "#4c6f8f", "#c2410c", "#8a8a8a"


def check_picture(path: str | Path, overwrite: bool) -> Path:
    """Refuses, before any work, a picture that could not be drawn.

    Raises:
        UsageError: it is no .svg or .png, exists, or matplotlib is missing.
    """
    if Path(path).suffix.lower() not in FORMS:
        raise UsageError(f"{path} is no picture that can be drawn", "name a .svg or a .png")
    _figure()
    return check_file(path, overwrite, option="--plot FILE")


def draw(made: Suggestion, path: str | Path, *, overwrite: bool = False) -> Path:
    """Draws the front, a panel for each limit; returns the path.

    Raises:
        UsageError: as for `check_picture`.
    """
    check_picture(path, overwrite)
    panels = list(_panels(made))
    matplotlib, figure = _figure()
    form = Path(path).suffix.lower()
    with matplotlib.rc_context({"svg.hashsalt": "attnsurgeon", "svg.fonttype": "none"}):
        drawn = figure(figsize=(4.2 * len(panels), 3.6), layout="constrained")
        axes = drawn.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for at, (name, limit, places) in zip(axes, panels, strict=True):
            _panel(at, name, limit, list(zip(places, made.front, strict=True)))
        by = "held-out gain" if made.trial is not None else "features gated"
        axes[0].set_ylabel(f"{by}, % of all candidates")
        axes[0].set_ylim(0, 104)
        with new_file(path, overwrite=overwrite, suffix=form, option="--plot FILE") as draft:
            metadata = {"Date": None} if form == ".svg" else None
            drawn.savefig(draft, format=form[1:], dpi=150, metadata=metadata)
    return Path(path)


def _panels(made: Suggestion) -> Iterator[tuple[str, float, list[float]]]:
    """Yields of each limit its name, where it stands and where the points do, in percent."""
    for said in made.limits:
        name = said.removeprefix("max_")
        limit = getattr(made.budget, said)
        if name == "latency":
            before = made.latency.before if made.latency is not None else 0.0
            added = [point.seconds or 0.0 for point in made.front]
        else:
            before = getattr(made.cost.before, name)
            added = [getattr(point.cost, name) for point in made.front]
        if before:
            room = float(limit.ceiling(before)) - before
            yield _NAMES[name], 100 * room / before, [100 * one / before for one in added]


def _panel(at: Any, name: str, limit: float, points: list[tuple[float, Point]]) -> None:
    others = [(x, point) for x, point in points if not point.chosen]
    at.axvline(limit, color=_LIMIT, linestyle="--", linewidth=1, label="limit")
    at.plot(
        [x for x, _ in others], [100 * point.worth for _, point in others],
        "o-", color=_DOTS, markersize=4, linewidth=1, label="Pareto front",
    )  # fmt: skip
    for x, point in points:
        if point.chosen:
            at.plot([x], [100 * point.worth], "D", color=_CHOSEN, markersize=7, label="suggested")
    at.set_xlabel(f"{name}, % added")
    at.grid(alpha=0.25)
    at.spines[["top", "right"]].set_visible(False)
    at.legend(framealpha=1, edgecolor="none", fontsize="small", loc="lower right")


def _figure() -> tuple[Any, Any]:
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UsageError(
            "a plot needs matplotlib, which is not installed",
            'pip install "attnsurgeon[pictures]"',
        ) from error
    return matplotlib, Figure
