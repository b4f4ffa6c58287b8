"""A matcher -> one line for people, as tables and errors show it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from attnsurgeon.rules.schema import Matcher, ModuleMatcher, RuleMatcher


def listed(items: Iterable[Any]) -> str:
    """Returns `a`, `a or b`, `a, b or c`."""
    words = [str(item) for item in items]
    return " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def describe(matcher: Matcher | ModuleMatcher) -> str:
    """Returns a matcher in one line: `residual-branch, channels >=128, nth 2n`."""
    if isinstance(matcher, RuleMatcher) and matcher.predicate is not None:
        return f"the function {name_of(matcher.predicate)}"
    return ", ".join(
        _part(field.alias or name, getattr(matcher, name))
        for name, field in type(matcher).model_fields.items()
        if getattr(matcher, name) is not None
    )


def name_of(function: Any) -> str:
    """Returns a function's name, or its type's where it has none."""
    return getattr(function, "__name__", type(function).__name__)


def _part(key: str, value: Any) -> str:
    if isinstance(value, (Matcher, ModuleMatcher)):
        return f"{key} ({describe(value)})"
    if key in ("any", "all"):
        return f"{key} of ({'; '.join(describe(one) for one in value)})"
    if isinstance(value, bool):
        return key if value else f"not {key}"
    text = listed(value) if isinstance(value, tuple) else str(value)
    return text if key == "site" else f"{key} {text}"
