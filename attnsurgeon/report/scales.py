"""Figures -> places along an axis, and round numbers to write at it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

_LEAST = 1e-5  # of the largest figure: what is smaller is drawn as next to nothing
_WIDE = 30.0  # times: where the largest figure is more than the smallest, the axis is compressed


@dataclass(frozen=True)
class Axis:
    """An axis that bears figures of both signs.

    Attributes:
        least, most: its ends.
        knee: up to which figure, on both sides of 0, it is even; beyond, each power of ten takes
            as much as the one before. None of one that is even all along.
    """

    least: float
    most: float
    knee: float | None = None

    @classmethod
    def over(cls, figures: Sequence[float], *, even: bool = False) -> Axis:
        """Returns an axis with room for these figures and 0.

        Args:
            figures: any.
            even: do not compress it where they are far apart: the smallest of figures that were
                measured are noise.
        """
        sizes = [abs(figure) for figure in figures if figure]
        knee = None
        if sizes and not even and max(sizes) > _WIDE * min(sizes):
            knee = 10.0 ** math.floor(math.log10(max(min(sizes), max(sizes) * _LEAST)))
        return cls(min([0.0, *figures]), max([0.0, *figures]), knee)

    def at(self, figure: float) -> float:
        """Returns the place of a figure in percent of the axis, with a margin at both ends."""
        low, high = self._bent(self.least), self._bent(self.most)
        span = high - low or 1.0
        return 4 + 92 * (self._bent(figure) - low) / span

    def ticks(self) -> list[float]:
        """Returns round figures to write at it."""
        if self.knee is None:
            return ticks(self.least, self.most)
        powers = range(round(math.log10(self.knee)), 40)
        sizes = [10.0**power for power in powers]
        below = [-size for size in sizes if -size >= self.least][::-1]
        return [*below, 0.0, *(size for size in sizes if size <= self.most)]

    def _bent(self, figure: float) -> float:
        if self.knee is None:
            return figure
        size = abs(figure) / self.knee
        return math.copysign(size if size <= 1 else 1 + math.log10(size), figure)


def ticks(least: float, most: float, about: int = 5) -> list[float]:
    """Returns round numbers from `least` to `most`, some `about` of them."""
    span = most - least
    if span <= 0 or not math.isfinite(span):
        return [least] if math.isfinite(least) else []
    rough = span / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= rough * 0.999)
    first, last = math.ceil(least / step - 1e-9), math.floor(most / step + 1e-9)
    return [round(number * step, 12) + 0.0 for number in range(first, last + 1)]
