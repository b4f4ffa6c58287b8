"""A JSON value -> a record of surgery, or one error that names the first thing wrong in it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from attnsurgeon.errors import ModelError

Check = Callable[[Any], bool]


def check_record(record: Any, file: Path) -> None:
    """Check that a record has every part that loading and reporting rely on.

    Raises:
        ModelError: naming the first part that is missing or of the wrong kind.
    """
    wrong = _first_wrong(record, _RECORD, "") or _contradiction(record)
    if wrong is not None:
        raise ModelError(
            f"{file} is not a record of surgery: {wrong}",
            "it was not written by attnsurgeon, or has been edited; copy the folder again",
        )


def _contradiction(record: Mapping[str, Any]) -> str | None:
    mode, base = record["mode"], record["base"]
    if not record["operations"]:
        return "operations is empty"
    if record["weights"]["file"] != f"{'model' if mode == 'full' else 'adapter'}.safetensors":
        return f"weights.file is not that of mode {mode!r}"
    if mode == "adapter" and (base["form"] is None or base["sha256"] is None):
        return "it is an adapter, and base does not say of what"
    return None


def _first_wrong(value: Any, shape: Any, where: str) -> str | None:
    """Compare a value with a shape: a dict of named parts, a list of one shape, or a check."""
    name = where or "the file"
    if isinstance(shape, _Optional):
        return None if value is None else _first_wrong(value, shape.shape, where)
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            return f"{name} is not an object"
        for key, inner in shape.items():
            if key not in value:
                return f"{name} has no {key!r}"
            if wrong := _first_wrong(value[key], inner, f"{where}.{key}" if where else key):
                return wrong
        return None
    if isinstance(shape, list):
        if not isinstance(value, list):
            return f"{name} is not a list"
        found = (_first_wrong(v, shape[0], f"{where}[{i}]") for i, v in enumerate(value))
        return next((wrong for wrong in found if wrong), None)
    return None if shape(value) else f"{name} is not valid: {str(value)[:60]!r}"


class _Optional:
    """A shape that may also be null."""

    def __init__(self, shape: Any) -> None:
        self.shape = shape


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _one_of(*allowed: Any) -> Check:
    return lambda value: value in allowed


def _number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _size(value: Any) -> bool:
    return isinstance(value, int) and 0 < value <= 1 << 16 and not isinstance(value, bool)


def _input_size(value: Any) -> bool:
    """Whether a value is the size of one input, or a list of these."""
    if not isinstance(value, list) or not value:
        return False
    return all(map(_size, value)) or all(
        isinstance(one, list) and one and all(map(_size, one)) for one in value
    )


def _digest(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None


def _map_of(check: Check) -> Check:
    return lambda value: isinstance(value, Mapping) and all(map(check, value.values()))


def _strides(value: Any) -> bool:
    return isinstance(value, list) and all(_number(v) and v >= 0 for v in value)


def _dtype(value: Any) -> bool:
    return isinstance(value, str) and isinstance(getattr(torch, value, None), torch.dtype)


def _anything(value: Any) -> bool:
    return True


def _args(value: Any) -> bool:
    """Whether a value is named arguments, none of which would replace another part of the cut."""
    taken = {"name", "channels", "conv", "rank", "init"}
    return isinstance(value, dict) and not taken & value.keys()


def _file(*names: str) -> dict[str, Any]:
    return {
        "file": _one_of(*names),
        "sha256": _digest,
        "aliases": _map_of(_text),
        "strides": _map_of(_strides),
    }


_SITE = {
    "path": _text,
    "shared": [_text],
    "channels": _number,
    "layout": _text,
    "module_path": _text,
    "technique": _text,
    "params": _number,
    "attn": _text,
    "args": _args,
    "init": _text,
    "action": _text,
    "rule": _text,
}
_OPERATION = {
    "attn": _text,
    "where": _text,
    "init": _text,
    "rules": _text,
    "input_size": _input_size,
    "sites": [_SITE],
}
_FIGURES = {"params": _number, "macs": _number, "activations": _number}
_RECORD = {
    "format": _one_of("attnsurgeon"),
    "format_version": _one_of(1),
    "mode": _one_of("full", "adapter"),
    "source": _Optional(
        {
            "spec": _text,
            "model_args": _map_of(_anything),
            "weights": _text,
            "stripped": [_text],
        }
    ),
    "base": {
        "class": _text,
        "sha256": _Optional(_digest),
        "form": _Optional({"dtypes": _map_of(_dtype), "strides": _map_of(_strides)}),
    },
    "operations": [_OPERATION],
    "weights": _file("model.safetensors", "adapter.safetensors"),
    "buffers": _Optional(_file("buffers.safetensors")),
    "cost": {"before": _FIGURES, "after": _FIGURES, "delta": _FIGURES, "uncounted": [_text]},
    "versions": _map_of(lambda value: value is None or isinstance(value, str)),
}
