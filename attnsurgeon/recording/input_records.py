"""The form of an input <-> plain values, as a saved folder keeps it; whoever made them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from attnsurgeon.errors import ModelError
from attnsurgeon.recording.examples import DTYPES, PLAIN, refuse_senseless
from attnsurgeon.recording.inputs import BATCH, InputForm, TensorForm
from attnsurgeon.sizes import each, to_lists, together

_LONGEST = 10_000  # characters of a string


def form_record(form: InputForm) -> dict[str, Any] | None:
    """Returns the form as plain values; None where the sizes of its tensors say all of it."""
    if not form.kwargs and all(_is_image(value, form) for value in form.args):
        return None
    return {
        "args": [_written(value) for value in form.args],
        "kwargs": [[name, _written(value)] for name, value in form.kwargs.items()],
        "batched": form.batched,
    }


def form_of_record(record: Any) -> InputForm:
    """Returns what `form_record` wrote.

    Raises:
        ModelError: it is nothing that `form_record` writes.
    """
    if not isinstance(record, dict) or set(record) != {"args", "kwargs", "batched"}:
        raise _no_form()
    args, kwargs = record["args"], _pairs(record["kwargs"])
    batched = record["batched"]
    if (
        not isinstance(args, list)
        or type(batched) is not bool
        or not all(type(name) is str for name, _ in kwargs)
    ):
        raise _no_form()
    form = InputForm(
        tuple(map(_read, args)), {name: _read(value) for name, value in kwargs}, batched
    )
    refuse_senseless(form)
    return form


def recorded_form(operation: Mapping[str, Any]) -> InputForm:
    """Returns the form of the input that a recorded operation was analysed with."""
    if operation.get("example") is not None:
        return form_of_record(operation["example"])
    return InputForm.of_size(together(each(operation["input_size"])))


def input_record(form: InputForm) -> dict[str, Any]:
    """Returns what `recorded_form` reads, as plain values."""
    return {"input_size": to_lists(form.size), "example": form_record(form)}


def _is_image(value: Any, form: InputForm) -> bool:
    if not isinstance(value, TensorForm) or value.low is not None:
        return False
    has_map = any(len(t.shape) > 2 for t in form.tensors)
    return has_map and value.dtype.is_floating_point and value.shape[:1] == (BATCH,)


def _written(value: Any) -> dict[str, Any]:
    if isinstance(value, TensorForm):
        made = {"tensor": list(value.shape), "dtype": str(value.dtype).removeprefix("torch.")}
        return made if value.low is None else {**made, "range": [value.low, value.high]}
    if isinstance(value, (list, tuple)):
        kind = "list_of" if isinstance(value, list) else "tuple_of"
        return {kind: [_written(one) for one in value]}
    if isinstance(value, Mapping):
        return {"dict_of": [[key, _written(one)] for key, one in value.items()]}
    return {"value": value}


def _read(record: Any) -> Any:
    """What `_written` wrote; everything in it is checked, whoever made it."""
    if not isinstance(record, dict):
        raise _no_form()
    if "tensor" in record:
        return _read_tensor(record)
    if len(record) != 1:
        raise _no_form()
    ((kind, value),) = record.items()
    if kind == "value" and type(value) in PLAIN and not _is_too_much(value):
        return value
    if kind in ("list_of", "tuple_of") and isinstance(value, list):
        found = map(_read, value)
        return list(found) if kind == "list_of" else tuple(found)
    if kind != "dict_of":
        raise _no_form()
    return {key: _read(one) for key, one in _pairs(value)}


def _pairs(value: Any) -> list[tuple[Any, Any]]:
    whole = isinstance(value, list) and all(isinstance(p, list) and len(p) == 2 for p in value)
    if not whole or not all(type(key) in (str, int) for key, _ in value):
        raise _no_form()
    return [(key, one) for key, one in value]


def _read_tensor(record: dict[str, Any]) -> TensorForm:
    shape, dtype, span = record["tensor"], record.get("dtype"), record.get("range")
    kind = DTYPES.get(dtype) if isinstance(dtype, str) else None
    whole = isinstance(shape, list) and len(shape) <= 8
    if kind is None or not whole or not all(type(n) is int and 0 <= n < 1 << 31 for n in shape):
        raise _no_form()
    if span is None:
        return TensorForm(tuple(shape), kind)
    numbers = isinstance(span, list) and [type(n) in (int, float) for n in span] == [True, True]
    if not numbers or any(map(_is_too_much, span)) or span[0] > span[1]:
        raise _no_form()
    return TensorForm(tuple(shape), kind, *span)


def _is_too_much(value: Any) -> bool:
    if isinstance(value, float):
        return not math.isfinite(value)
    if isinstance(value, str):
        return len(value) > _LONGEST
    return isinstance(value, int) and not -(1 << 62) <= value < 1 << 62


def _no_form() -> ModelError:
    return ModelError("it is no form of an input")
