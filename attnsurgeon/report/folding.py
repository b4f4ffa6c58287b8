"""Rows of a table -> fewer rows: equal places, numbered on, become one."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

Row = TypeVar("Row")


@dataclass(frozen=True)
class Run(Generic[Row]):
    """Rows that say the same, of paths in which one number counts on.

    Attributes:
        rows: in order, at least one.
        first, last: paths of the ends.
    """

    rows: tuple[Row, ...]
    first: str
    last: str

    @property
    def head(self) -> Row:
        """The row that stands for all of them."""
        return self.rows[0]

    def __len__(self) -> int:
        return len(self.rows)

    def spelled(self, to: str) -> str:
        """Returns `layer1.0.bn3 … layer1.2.bn3`."""
        return self.first if len(self) == 1 else f"{self.first} {to} {self.last}"


def fold(
    rows: Iterable[Row], path: Callable[[Row], str], same: Callable[[Row], Hashable]
) -> list[Run[Row]]:
    """Returns the runs of `rows`, in the order of their first rows.

    Runs may interleave: of `0.proj 0.fc2 1.proj 1.fc2` there are two.

    Args:
        rows: in order.
        path: a row's path; along a run one and the same number in it differs.
        same: what has to be equal along a run besides the path.
    """
    runs: list[list[Row]] = []
    latest: dict[Hashable, list[Row]] = {}  # by what has to be equal
    counting: dict[int, int] = {}  # which number differs along a run, once it has two rows
    for row in rows:
        key = (re.sub(r"\d+", "0", path(row)), same(row))
        run = latest.get(key)
        place = None if run is None else counted_on(path(run[-1]), path(row))
        if run is None or place is None or counting.setdefault(id(run), place) != place:
            run = latest[key] = []
            runs.append(run)
        run.append(row)
    return [Run(tuple(run), path(run[0]), path(run[-1])) for run in runs]


def counted_on(before: str, path: str) -> int | None:
    """Returns which number alone differs between two paths, or None where more does."""
    old, new = re.split(r"(\d+)", before), re.split(r"(\d+)", path)
    if len(old) != len(new):
        return None
    places = [i for i, (a, b) in enumerate(zip(old, new, strict=True)) if a != b]
    return places[0] if len(places) == 1 and places[0] % 2 else None
