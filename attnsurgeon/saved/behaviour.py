"""A network, and one built anew that looks like it -> do both compute the same?

What hangs on a network (a hook) or was put on the object itself (`model.forward = ...`) is in no
class, no key and no setting, and may change every output. Where there is such a thing, a forward of
each is recorded. A hook that only watches leaves what is computed as it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import fx, nn

from attnsurgeon.errors import ModelError
from attnsurgeon.forwards.alignment import constants_in
from attnsurgeon.recording.inputs import InputForm
from attnsurgeon.recording.record import Traced
from attnsurgeon.sites.analysis import record

_MODES = ("train", "reset_running_stats")  # what holds the norms of a frozen backbone
# Mixed precision, which wraps a forward, changes what numbers are held in, not what is computed.
_CONVERSIONS = ("to", "float", "double", "half", "bfloat16", "type", "type_as", "detach")


def is_altered(model: nn.Module) -> bool:
    """Tell whether anything stands on a network beside its classes that may change its forward."""
    return any(
        module._forward_hooks or module._forward_pre_hooks or any(_methods_of_its_own(module))
        for module in model.modules()
    )


def _methods_of_its_own(module: nn.Module) -> Iterator[str]:
    for name, value in vars(module).items():
        hidden = getattr(type(module), name, None)
        if callable(value) and callable(hidden) and name not in _MODES:
            yield name


def computes_like(model: nn.Module, other: nn.Module, form: InputForm | None) -> bool:
    """Tell whether two networks do the same operations, on values that reach their outputs.

    Args:
        model, other: are only read; both may be on meta.
        form: of the input to run them on; None for one that is guessed.
    """
    try:
        return _steps(record(model, example=form)) == _steps(record(other, example=form))
    except ModelError:  # it does not run, so nothing is known
        return False


def _steps(traced: Traced) -> list[Any]:
    """What is done, in order: operation, numbers of the values it takes, constants, shape."""
    numbers: dict[fx.Node, int] = {}
    steps: list[Any] = []
    wanted = _reaching(traced)
    for node in traced.graph.nodes:
        if node not in wanted:
            continue
        name = node.meta.get("name") or str(node.target)
        given = [numbers[n] for n in node.all_input_nodes if n in numbers]
        if name in _CONVERSIONS and given:
            numbers[node] = given[0]
            continue
        numbers[node] = len(steps)
        steps.append((name, given, constants_in((node.args, node.kwargs)), node.meta.get("shape")))
    return [*steps, [numbers[node] for node in traced.root.outputs]]


def _reaching(traced: Traced) -> set[fx.Node]:
    found: set[fx.Node] = set()
    waiting = list(traced.root.outputs)
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            waiting += node.all_input_nodes
    return found
