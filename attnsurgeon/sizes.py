"""The size of a network's input, without the batch; of several inputs, the size of each."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Union

from attnsurgeon.errors import ModelError

MAX_SIDE = 1 << 24  # a minute of sound has a million samples
MAX_ELEMENTS = 1 << 28  # of one input; a gigabyte of float32

Size = tuple[int, ...]
InputSize = Union[Size, tuple[Size, ...]]  # noqa: UP007 -- evaluated, also by Python 3.10


def each(size: InputSize | Sequence[Any]) -> tuple[Size, ...]:
    """Returns the size of each positional input: ((3, 224, 224),) for (3, 224, 224)."""
    if size and isinstance(size[0], Sequence):
        return tuple(tuple(one) for one in size)  # pyright: ignore[reportArgumentType]
    return (tuple(size),)  # pyright: ignore[reportReturnType]


def together(sizes: Iterable[Size]) -> InputSize:
    """Returns the sizes of all inputs as users write them: the one, or a tuple of several."""
    found = tuple(tuple(size) for size in sizes)
    return found[0] if len(found) == 1 else found


def to_lists(size: InputSize) -> list[Any]:
    """Returns the same as lists, as JSON has it."""
    return [list(n) if isinstance(n, tuple) else n for n in size]


def checked(size: Any) -> InputSize:
    """Returns what a user gave as tuples of positive ints.

    Raises:
        ModelError: it is no size, and no sequence of sizes; or larger than any image.
    """
    given = size if isinstance(size, (tuple, list)) else ()
    several = bool(given) and all(isinstance(one, (tuple, list)) for one in given)
    sizes = tuple(map(tuple, given)) if several else (tuple(given),)
    if not all(map(_is_size, sizes)) or sum(map(len, sizes)) < 2:
        raise ModelError(
            f"input_size={repr(size)[:80]} is not a size",
            "channels first, without the batch: input_size=(3, 224, 224); of signals (12, 1000);"
            " of a network with several inputs one size for each",
        )
    if any(max(one) > MAX_SIDE or math.prod(one) > MAX_ELEMENTS for one in sizes):
        raise ModelError(
            f"an input of {str(size)[:80]} is too large",
            f"up to {MAX_SIDE:,} a side and {MAX_ELEMENTS:,} numbers in all",
        )
    return together(sizes)


def _is_size(size: Size) -> bool:
    whole = all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in size)
    return len(size) > 0 and whole
