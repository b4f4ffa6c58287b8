"""A value of a record -> taken as it is, or refused: the kinds of field that a record has."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Annotated, Any

import torch
from pydantic import AfterValidator, FailFast, Field, PlainValidator, StringConstraints

from attnsurgeon.errors import ModelError
from attnsurgeon.plain import from_plain
from attnsurgeon.recording.input_records import form_of_record
from attnsurgeon.sites.site import LAYOUTS
from attnsurgeon.sizes import checked

# See docs/limits.md.
MAX_VALUES = 500_000
MAX_SITES = 20_000


def valid(check: Callable[[Any], bool]) -> PlainValidator:
    """Make a field that takes what passes a check, as it is."""

    def validate(value: Any) -> Any:
        if not check(value):
            raise ValueError
        return value

    return PlainValidator(validate)


def is_input_size(value: Any) -> bool:
    """Tell whether a value is the size of one input, or a list of these."""
    try:
        return isinstance(value, list) and bool(checked(value))
    except ModelError:
        return False


def _are_sides(value: Any) -> bool:
    """Whether a value is what is shown of an input that `example` describes; of a number, []."""
    several = isinstance(value, list) and any(isinstance(one, list) for one in value)
    return all(
        isinstance(size, list) and all(type(n) is int and 0 <= n < 1 << 31 for n in size)
        for size in (value if several else [value])
    )


def _is_example(value: Any) -> bool:
    """Whether a value is the form of an input, or None, where its size is all of it."""
    try:
        return value is None or bool(form_of_record(value).tensors)
    except ModelError:
        return False


def _is_dtype(value: Any) -> bool:
    """Whether a value names a type of floating-point number that tensors can be converted to."""
    dtype = getattr(torch, value, None) if isinstance(value, str) else None
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        return False
    try:
        return torch.zeros(1).to(dtype).dtype == dtype
    except (RuntimeError, NotImplementedError):
        return False


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_strides(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(v, int) and not isinstance(v, bool) and 0 <= v < 1 << 63 for v in value
    )


def are_texts_or_none(value: Any) -> bool:
    """Tell whether a value is a list of texts, or None."""
    return value is None or (isinstance(value, list) and all(map(_is_text, value)))


def is_count(value: Any) -> bool:
    """Tell whether a value is a number of things."""
    return type(value) is int and 0 <= value < 1 << 63


def is_map_of(check: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """Make the check of a mapping whose every value passes a check."""
    return lambda value: isinstance(value, dict) and all(map(check, value.values()))


def _is_named(value: Any) -> bool:
    """Whether a value is a mapping of names to plain values, and is one for Python, too."""
    return isinstance(value, dict) and isinstance(from_plain(value), dict) and _is_plain(value)


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(_is_plain, value.values()))
    if isinstance(value, list):
        return all(map(_is_plain, value))
    if isinstance(value, int):
        return -(1 << 63) <= value < 1 << 63
    return math.isfinite(value) if isinstance(value, float) else True


def _is_digest(value: str) -> str:
    if re.fullmatch("[0-9a-f]{64}", value) is None:
        raise ValueError
    return value


Text = Annotated[str, StringConstraints(max_length=100_000)]
Rules = Annotated[str, StringConstraints(max_length=1_000_000)]  # as `rules.document.MAX_BYTES`
Digest = Annotated[str, AfterValidator(_is_digest)]
Number = Annotated[int, Field(ge=-(1 << 63), lt=1 << 63)]
Count = Annotated[int, Field(ge=0, lt=1 << 63)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Sides = Annotated[list[Annotated[int, Field(ge=0, lt=1 << 31)]], Field(max_length=8), FailFast()]
Texts = Annotated[list[Text], Field(max_length=MAX_SITES), FailFast()]
Example = Annotated[Any, valid(_is_example)]
InputSize = Annotated[Any, valid(_are_sides)]
Aliases = Annotated[Any, valid(is_map_of(_is_text))]
Strides = Annotated[Any, valid(is_map_of(_is_strides))]
Dtypes = Annotated[Any, valid(is_map_of(_is_dtype))]
Versions = Annotated[Any, valid(is_map_of(lambda value: value is None or _is_text(value)))]
Named = Annotated[Any, valid(_is_named)]
Layout = Annotated[str, valid(lambda value: _is_text(value) and value in LAYOUTS)]
