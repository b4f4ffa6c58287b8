"""Node of a trace + recorded values -> the value it makes: functions run, children answer."""

from __future__ import annotations

import contextlib
import operator
from typing import Any

import torch
from torch import Tensor, fx

from attnsurgeon.forwards.alignment import Untraceable
from attnsurgeon.recording.randomness import OwnDice
from attnsurgeon.recording.record import (
    Call,
    Key,
    child_name,
    map_tensors,
    operation_name,
    tensors_in,
)
from attnsurgeon.recording.shape_only import shape_only


def executed(node: fx.Node, args: tuple, kwargs: dict) -> Any:
    """Runs the function or method of a node; what it changes in place is changed."""
    draws = not all(t.is_meta for t in tensors_in((args, kwargs)))  # on meta nothing is drawn
    method = getattr(Tensor, str(node.target), None) if node.op == "call_method" else None
    made = None if draws else shape_only(method or node.target, args, kwargs)
    if made is not None:
        return made
    with torch.no_grad(), OwnDice() if draws else contextlib.nullcontext():
        if node.op == "call_method":
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        made = node.target(*args, **kwargs)  # type: ignore[operator]
        return args[0] if node.target is operator.setitem else made


def recorded_name(node: fx.Node, args: tuple) -> str | None:
    """The operation's name in the record; None for putting values in an object, or for taking."""
    if isinstance(node.target, type) and not issubclass(node.target, Tensor):
        return None
    name = operation_name(node.target)
    if name in ("getitem", "getattr") and not isinstance(args[0], Tensor):
        return None
    return str(node.args[1]) if name == "getattr" else name


_SIZES = frozenset(["shape", "size", "dim", "ndim", "numel", "ndimension", "nelement"])


def reads_size(node: fx.Node) -> bool:
    """Whether a node asks a tensor for its size, or the number of its axes or values."""
    asked = node.args[1] if node.target is getattr else node.target
    return node.op in ("call_function", "call_method") and (
        asked in _SIZES or node.target is torch.numel
    )


def holds_tensors(value: Any) -> bool:
    """Whether a value is a tensor, or holds one."""
    return any(True for _ in tensors_in(value))


def mutable(value: Any) -> Any:
    """fx holds lists and dicts as immutable ones; functions are given plain ones."""
    if isinstance(value, list):
        return [mutable(v) for v in value]
    if isinstance(value, tuple) and not hasattr(value, "_fields"):
        return tuple(mutable(v) for v in value)
    if isinstance(value, dict):
        return {k: mutable(v) for k, v in value.items()}
    return value


class Children:
    """The recorded calls of a module's children: in a trace they return what they did there."""

    def __init__(self, call: Call) -> None:
        self._calls: dict[str, list[Call]] = {}
        for event in call.events:
            if isinstance(event, Call):
                self._calls.setdefault(child_name(call, event), []).append(event)

    def call(self, key: Key) -> Call:
        """The recorded call of this key.

        Raises:
            Untraceable: the record has none.
        """
        _, name, number = key
        made = self._calls.get(name, [])
        if number >= len(made):
            raise Untraceable(f"{name} runs here but did not in the record")
        return made[number]


def answer(child: Call, args: tuple, kwargs: dict, training: bool) -> tuple[Any, list[Tensor]]:
    """What a child returns for these tensors, and those of them that it changes in place."""
    same: dict[int, Tensor] = {}
    changed: list[Tensor] = []
    for tensor, twin, before, after in zip(
        tensors_in((args, kwargs)),
        tensors_in((child.args, child.kwargs)),
        child.inputs,
        child.inputs_after,
        strict=False,
    ):
        # What a child hands through in eval mode (dropout) it may copy in training mode.
        handed = not training or before is not after
        same[id(twin)] = tensor if handed else tensor.clone()
        changed += [tensor] if before is not after else []
    return map_tensors(child.output, lambda t: same.get(id(t), t)), changed
