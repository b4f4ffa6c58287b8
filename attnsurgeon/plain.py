"""Python values <-> JSON values, so that a tuple comes back as a tuple."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

_TUPLE = "tuple"


def to_plain(value: Any) -> Any:
    """Return a value that JSON can hold; tuples become `{"tuple": [...]}`.

    Raises:
        TypeError: for a value that JSON cannot hold, which it names.
    """
    if value is None or type(value) in (bool, str):
        return value
    if type(value) is float and math.isfinite(value):
        return value
    if type(value) is int and -(1 << 63) <= value < 1 << 63:
        return value
    if isinstance(value, tuple):
        return {_TUPLE: [to_plain(item) for item in value]}
    if isinstance(value, list):
        return [to_plain(item) for item in value]
    if isinstance(value, Mapping):
        if set(value) == {_TUPLE} or not all(isinstance(key, str) for key in value):
            raise TypeError(f"a mapping with the keys {list(value)!r}")
        return {key: to_plain(item) for key, item in value.items()}
    raise TypeError(f"{value!r} ({type(value).__name__})")


def from_plain(value: Any) -> Any:
    """Return what `to_plain` was given."""
    if isinstance(value, list):
        return [from_plain(item) for item in value]
    if isinstance(value, dict):
        if set(value) == {_TUPLE} and isinstance(value[_TUPLE], list):
            return tuple(from_plain(item) for item in value[_TUPLE])
        return {key: from_plain(item) for key, item in value.items()}
    return value
