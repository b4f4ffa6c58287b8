"""The plain attributes that a forward reads: generated code holds their values as they were."""

from __future__ import annotations

import contextlib
import enum
import warnings
from collections.abc import Iterator
from typing import Any

from torch import nn

Reads = tuple[tuple[str, Any], ...]  # (attribute, value), sorted by name

_OWN = frozenset(vars(nn.Module()))  # `training`, which has code of its own, and torch's tables
_GONE = object()


@contextlib.contextmanager
def watched(module: nn.Module) -> Iterator[dict[str, Any]]:
    """Collects the plain attributes of `module` that are read meanwhile.

    Raises:
        TypeError: objects of this class cannot change their class, so no forward can be given.
    """
    kind: Any = type(module)
    read: dict[str, Any] = {}

    def look(self: nn.Module, name: str) -> Any:
        value = kind.__getattribute__(self, name)
        if (
            name not in _OWN
            and _is_plain(value)
            and name in object.__getattribute__(self, "__dict__")
        ):
            read[name] = value
        return value

    module.__class__ = type(kind.__name__, (kind,), {"__getattribute__": look})
    try:
        yield read
    finally:
        module.__class__ = kind


def as_reads(*found: dict[str, Any]) -> Reads:
    """Returns what was read, in a form that can be compared and hashed."""
    return tuple(sorted({name: v for each in found for name, v in each.items()}.items()))


def check_reads(module: Any) -> None:
    """Warns where an attribute has another value than the generated code of `module` holds."""
    for name, value in type(module)._surgeon_reads:
        now = getattr(module, name, _GONE)
        if now is not value and now != value:
            warnings.warn(
                f"{type(module).__name__}.{name} was {value!r} when attention was put in, and its "
                "forward goes on with that; to change it, take the attention out "
                "(attnsurgeon.remove), change it and insert again",
                stacklevel=2,
            )


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (bool, int, float, str, enum.Enum))
