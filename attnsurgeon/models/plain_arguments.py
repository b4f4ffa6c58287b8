"""An argument that a file gives to a network -> plain and of a sound size, or what is wrong.

Plain is what can name nothing: truth values, numbers, single words, and lists and mappings of
these. A word has no dot, slash or colon, so it is no path, no address and no expression. Where a
word could be looked up on a disk or a hub all the same, the argument's name says so, and it has to
be empty.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

MOST_NUMBER = 1 << 20  # of classes, channels, layers, pixels: no network has as many of one
MOST_PARTS = 1 << 17  # the names of 21,841 classes, twice over, are 44,000
DEEPEST = 8
_LONGEST = 64
_LONGEST_LABEL = 1000
_WORD = re.compile(rf"[A-Za-z0-9_+-]{{0,{_LONGEST}}}")
_DOTTED = re.compile(r"[A-Za-z0-9_.]{1,64}")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")
# What these name is fetched, opened, imported or called: weights, files, addresses, other code.
_POINTING = re.compile(
    r"^_|(^|_)(pretrained|checkpoint|path|files?|dir|folder|url|uri|repo|hub|dataset|revision|"
    r"auto_map|implementation|remote_code|quantization_config|kernel_config|cfg|overlay|weights)"
    r"(_|$)"
)
_SWITCHES = {"init_weights"}  # is on or off


def not_plain(name: str, value: Any) -> str | None:
    """Return what is wrong with one argument; None for a plain one.

    Args:
        name: of the argument, which no mapping inside has to be known for.
        value: as `plain.from_plain` gave it.
    """
    if not _NAME.fullmatch(name):
        return f"{_shown(name)} is no name of an argument"
    if too_much := _too_much(value):
        return f"{name} {too_much}"
    if points_elsewhere(name) and not _is_number(value):
        return f"{name} points to something outside of the network"
    for key, part in _leaves(name, value):
        if key != name and not _NAME.fullmatch(key):
            return f"{name} has the key {_shown(key)}, which is no name"
        if key != name and points_elsewhere(key) and not _is_number(part):
            return f"{name} has the key {key!r}, which points to something outside of the network"
        if wrong := _wrong_leaf(part):
            return f"{name} {wrong}"
    return None


def points_elsewhere(name: str) -> bool:
    """Tell whether an argument of this name is looked up outside of the network."""
    return _POINTING.search(name) is not None and name not in _SWITCHES


def not_labels(name: str, value: Any) -> str | None:
    """Return what is wrong with the names of classes, number -> text or text -> number."""
    if value is None:
        return None
    if not isinstance(value, Mapping) or not all(
        isinstance(part, (str, int)) and len(str(part)) < _LONGEST_LABEL
        for pair in value.items()
        for part in pair
    ):
        return f"{name} is no mapping of labels"
    return f"{name} {too_much}" if (too_much := _too_much(value)) else None


def not_names(name: str, value: Any) -> str | None:
    """Return what is wrong with a list of names of modules, which may have dots in them."""
    if value is None:
        return None
    if not isinstance(value, (list, tuple)) or len(value) > _LONGEST_LABEL:
        return f"{name} is no list of names"
    wrong = (one for one in value if not isinstance(one, str) or not _DOTTED.fullmatch(one))
    found = next(wrong, None)
    return None if found is None else f"{name} has {_shown(found)}, which is no name"


def _wrong_leaf(value: Any) -> str | None:
    if value is None or isinstance(value, bool):
        return None
    if isinstance(value, (int, float)):
        if not math.isfinite(value) or abs(value) > MOST_NUMBER:
            return f"is {_shown(value)}, beyond {MOST_NUMBER:,}"
        return None
    if isinstance(value, str):
        return None if _WORD.fullmatch(value) else f"is {_shown(value)}, which is no single word"
    return f"is of type {type(value).__name__}"


def _is_number(value: Any) -> bool:
    """Whether a value can point to nothing: a switch that is off, a rate, a kernel's size."""
    if isinstance(value, (list, tuple)):
        return all(map(_is_number, value))
    return value is None or value is False or type(value) in (int, float)


def _leaves(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Every value that holds no other, with the name of the mapping's key it stands under."""
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield from _leaves(str(key), part)
        return
    if isinstance(value, (list, tuple)):
        for part in value:
            yield from _leaves(name, part)
        return
    yield name, value


def _too_much(value: Any) -> str | None:
    """Count breadth first, so that neither depth nor length is walked to its end."""
    layer, parts = [value], 0
    for _ in range(DEEPEST):
        parts += len(layer)
        if parts > MOST_PARTS:
            return f"has more than {MOST_PARTS:,} parts"
        layer = [part for one in layer for part in _inside(one)]
        if not layer:
            return None
    return f"is nested more than {DEEPEST} deep"


def _inside(value: Any) -> Any:
    if isinstance(value, Mapping):
        return value.values()
    return value if isinstance(value, (list, tuple)) else ()


def _shown(value: Any) -> str:
    """A value as one short line."""
    text = str(value) if isinstance(value, int) and value.bit_length() < 200 else repr(value)[:60]
    return text[:60] + ("..." if len(text) > 60 else "")
