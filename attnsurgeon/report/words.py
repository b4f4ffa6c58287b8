"""Numbers and sizes -> text for people."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from attnsurgeon.sizes import each


def count(number: int | None) -> str:
    """Returns 25,557,032; a dash for what was not counted."""
    return "-" if number is None else f"{number:,}"


def rounded(number: int) -> str:
    """Returns 25.6 M, 4.11 G, 812: three digits."""
    for unit, factor in (("T", 10**12), ("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if number >= factor:
            scaled = number / factor
            return f"{scaled:.{2 if scaled < 10 else 1 if scaled < 100 else 0}f} {unit}"
    return str(number)


def change(number: int | None) -> str:
    """Returns +86, -12 or 0."""
    return "-" if number is None else f"{number:+,}" if number else "0"


def percent(value: float | None) -> str:
    """Returns +0.00034 %, +12.40 %: two decimals, or two digits where those would be zeros."""
    if value is None:
        return "-"
    if value == 0:
        return "0 %"
    if abs(value) >= 0.01:
        return f"{value:+,.2f} %"
    decimals = f"{value:+.1e}"
    return f"{float(decimals):+.{1 - int(decimals.partition('e')[2])}f} %"


def milliseconds(seconds: float) -> str:
    """Returns 12.3 ms."""
    return f"{1000 * seconds:,.2f} ms"


def memory(size: int) -> str:
    """Returns 102.4 MB, 17.2 kB or 812 bytes."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size} bytes"


def memory_change(size: int) -> str:
    """Returns +1.6 MB, -812 bytes or 0."""
    return f"{'-' if size < 0 else '+'}{memory(abs(size))}" if size else "0"


def size(sides: Sequence[Any] | None, times: str) -> str:
    """Returns 3x224x224; of several sizes each; a dash for none."""
    found = each(sides) if sides else ()
    return " + ".join(times.join(map(str, one)) or "number" for one in found) or "-"


def several(number: int, noun: str) -> str:
    """Returns `1 site`, `16 sites`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def runs(number: int, sizes: Sequence[Any]) -> str:
    """Returns `5 runs`, `5 runs at 4 sizes`."""
    return several(number, "run") + (f" at {len(sizes)} sizes" if len(sizes) > 1 else "")


def listed(items: Iterable[Any], at_most: int = 6) -> str:
    """Returns the first items, and how many more there are."""
    words = [str(item) for item in items]
    more = [f"and {len(words) - at_most:,} more"] if len(words) > at_most else []
    return ", ".join(words[:at_most] + more)
