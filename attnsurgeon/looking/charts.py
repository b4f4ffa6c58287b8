"""Values that are no map -> bars, shares or a spread on axes; and a map's scale of colours.

Places on a figure are in inches from its lower left corner.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, SOFT, LINE = "#1c2024", "#5a5f67", "#c9ccd3"
LESS, MORE, PLAIN = "#0072B2", "#D55E00", "#4477AA"  # colour-blind people tell them apart
_SHARES = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#999999")
_BARS = 64  # more are drawn as an outline

Scale = tuple[float, float]


def _draw_sorted(axes: Any, values: Tensor, scale: Scale) -> None:
    numbers = values.double().tolist()
    count = len(numbers)
    rest = _rest(scale)
    if count <= _BARS:
        colours = [_colour(v, rest) for v in numbers]
        heights = [v - rest for v in numbers]
        axes.bar(range(count), heights, bottom=rest, width=0.85, color=colours, linewidth=0)
        axes.set_xlim(-0.7, count - 0.3)
    else:
        xs = list(range(count))
        if rest:
            above, below = [max(v, rest) for v in numbers], [min(v, rest) for v in numbers]
            axes.fill_between(xs, above, rest, color=MORE, linewidth=0, alpha=0.85)
            axes.fill_between(xs, below, rest, color=LESS, linewidth=0, alpha=0.85)
        else:
            axes.fill_between(xs, numbers, 0, color=PLAIN, linewidth=0, alpha=0.85)
        axes.set_xlim(0, count - 1)
    axes.set_xticks([0, count - 1], ["1", str(count)] if count > 1 else ["1", ""])
    _limits(axes, scale, rest)


def _draw_bars(axes: Any, values: Tensor, scale: Scale) -> None:
    numbers = values.double().tolist()
    rest = 0.0 if scale[0] >= 0 else _rest(scale)
    axes.bar(range(len(numbers)), numbers, width=0.75, color=PLAIN, linewidth=0)
    few = len(numbers) <= 12
    axes.set_xticks(
        range(len(numbers)) if few else [0, len(numbers) - 1],
        [str(n + 1) for n in range(len(numbers))] if few else ["1", str(len(numbers))],
    )
    axes.set_ylim(min(rest, scale[0]) * 1.05, max(scale[1], rest, 1e-6) * 1.05)


def _draw_shares(axes: Any, values: Tensor, scale: Scale) -> None:
    shares = values.double()
    colours = [_SHARES[at % len(_SHARES)] for at in range(len(shares))]
    count = shares.shape[1]
    xs = [-0.5, *[n + d for n in range(count) for d in (0.5, 0.5)][:-1]]
    doubled = shares.repeat_interleave(2, dim=1)
    axes.stackplot(xs, doubled.numpy(), colors=colours, linewidth=0, alpha=0.9)
    axes.set(xlim=(-0.5, count - 0.5), ylim=(0, float(shares.sum(0).max())))
    axes.set_xticks([0, count - 1], ["1", str(count)] if count > 1 else ["1", ""])
    base = 0.0
    for number, share in enumerate(shares[:, 0].tolist()):
        if share > 0.08:
            axes.text(0.02 * count, base + share / 2, str(number + 1), color="white", fontsize=8,
                      va="center", weight="bold")  # fmt: skip
        base += share


def _draw_spread(axes: Any, values: Tensor, scale: Scale) -> None:
    low, high = scale if scale[0] < scale[1] else (scale[0] - 0.5, scale[1] + 0.5)
    counts = torch.histc(values.float(), bins=40, min=low, max=high).tolist()
    width = (high - low) / 40
    axes.bar([low + (n + 0.5) * width for n in range(40)], counts, width=width, color=PLAIN)
    axes.set_yticks([])
    axes.set_xlim(low, high)


FORMS: Mapping[str, Callable[[Any, Tensor, Scale], None]] = {
    "sorted": _draw_sorted,
    "bars": _draw_bars,
    "shares": _draw_shares,
    "spread": _draw_spread,
}


def _rest(scale: Scale) -> float:
    """What bars rise from: 1, which leaves everything as it is, where values lie around it."""
    return 1.0 if scale[1] >= 1.0 else 0.0


def _colour(value: float, rest: float) -> str:
    return PLAIN if not rest else MORE if value >= rest else LESS


def _limits(axes: Any, scale: Scale, rest: float) -> None:
    low, high = min(scale[0], rest), max(scale[1], rest)
    room = 0.06 * (high - low) or 0.05
    axes.set_ylim(low - room * bool(rest or low < 0), high + room)
    if rest:
        axes.axhline(rest, color=SOFT, linewidth=0.8)


def draw_scale(
    figure: Figure,
    scale: Scale,
    colours: Any,
    left: float,
    top: float,
    wide: float,
) -> None:
    """Draws the colours of a map with their values under it."""
    low, high = scale
    if low == high:
        text_at(figure, left, top - 0.02, f"{short(low)} everywhere", size=7.5, color=SOFT)
        return
    axes = axes_at(figure, left, top - 0.09, wide, 0.09)
    axes.imshow([[i / 255 for i in range(256)]], aspect="auto", cmap=colours, extent=(0, 1, 0, 1))
    axes.set(xticks=[], yticks=[], xlim=(0, 1))
    axes.spines[:].set_visible(False)
    marks = {0.0: low, 1.0: high}
    one = (1 - low) / (high - low)
    if 0.2 < one < 0.8:  # what leaves everything as it is
        marks[one] = 1.0
        axes.axvline(one, color="white", linewidth=1.6)
    for at, value in marks.items():
        side = {0.0: "left", 1.0: "right"}.get(at, "center")
        text_at(figure, left + at * wide, top - 0.13, short(value), size=7.5, color=SOFT, ha=side)


def short(value: float) -> str:
    """Returns a value as it is written beside a picture; four places where it is close to 1."""
    if 0 < abs(value) < 5e-4:
        return "0.000"
    return f"{value:.3g}" if abs(value - 1) > 0.05 or value == 1 else f"{value:.4f}"


def axes_at(figure: Figure, left: float, bottom: float, width: float, height: float) -> Any:
    """Adds axes whose lower left corner is at (left, bottom)."""
    across, down = figure.get_size_inches()
    return figure.add_axes((left / across, bottom / down, width / across, height / down))


def text_at(figure: Figure, left: float, top: float, words: str, **how: Any) -> None:
    """Writes words whose upper left corner is at (left, top)."""
    across, down = figure.get_size_inches()
    figure.text(left / across, top / down, words, va="top", parse_math=False, **how)
