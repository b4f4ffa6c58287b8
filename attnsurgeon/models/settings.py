"""A module's attributes -> its plain settings: a dropout rate, a pool's kind, a width."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

# Set on a network in use, and no part of what it computes. Four are of YOLOs: the size of the last
# input, the file that was loaded, and what their class and their layers' shapes say. The last two
# are what `from_pretrained` writes down: quantised layers are of other classes.
_IN_USE = {"training", "grad_checkpointing", "inplace", "shape", "pt_path", "task", "nc"}
_IN_USE |= {"name_or_path", "is_quantized"}


def plain_settings(
    attributes: Mapping[Any, Any], function: Callable[[Any], Any] = lambda value: None
) -> dict[str, Any]:
    """Return the public attributes of a module that are plain values.

    Args:
        attributes: of the module, by name.
        function: what to write in place of a function or class; None leaves it out.
    """
    found: dict[str, Any] = {}
    for name, value in attributes.items():
        if not isinstance(name, str) or name.startswith("_") or name in _IN_USE:
            continue
        if is_plain(value):
            found[name] = value
        elif (named := function(value)) is not None:
            found[name] = named
    return found


def is_plain(value: Any, depth: int = 0) -> bool:
    """Whether a value compares to one answer, and soon; tuples of tensors do not."""
    if isinstance(value, tuple):
        return depth < 3 and len(value) <= 32 and all(is_plain(part, depth + 1) for part in value)
    if isinstance(value, int):
        return value.bit_length() <= 64
    return value is None or isinstance(value, (float, str))
