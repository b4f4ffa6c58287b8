"""Traced -> the modules that hand their input on, and whose callers go on with nothing else.

Dropout, drop-path and identities return in eval mode the very tensor they were given, so the
record does not show whether the caller goes on with what it gave or with what it got back. A second
forward in which each of them returns a copy does.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from attnsurgeon.recording.record import Call, Traced
from attnsurgeon.recording.trace import run_again
from attnsurgeon.recording.twin import full_twin


def handed_on(traced: Traced) -> frozenset[str]:
    """Returns the paths of modules, called once, through which a value passes unchanged as its
    only way on: a hook on their input is seen by all that comes after.
    """
    paths = [path for path, calls in traced.calls.items() if len(calls) == 1 and _passes(calls[0])]
    if not paths:
        return frozenset()
    twin = full_twin(traced.twin)
    for path in paths:
        twin.get_submodule(path).register_forward_hook(_copied)
    again = run_again(twin, traced)
    return frozenset(path for path in paths if _is_only_way(again.calls[path][0]))


def _passes(call: Call) -> bool:
    if call.parent is None or not call.inputs:
        return False
    return call.takes(call.inputs[0]) and call.returns(call.inputs[0])


def _copied(module: nn.Module, args: Any, output: Tensor) -> Tensor:
    return output.clone()


def _is_only_way(call: Call) -> bool:
    value = call.inputs[0]
    inside = all(call.start <= user.meta["order"] < call.end for user in value.users)
    return inside and not any(value in outer.outputs for outer in call.chain())
