"""A decision by sizes -> sizes of the arguments at which it turns out the other way.

Forcing an outcome is not enough: a forward that pads what has to be padded goes on with sizes that
only fit padded maps.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.node import map_arg
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from attnsurgeon.forwards.decisions import Decision
from attnsurgeon.forwards.symbolic import ShallowTracer
from attnsurgeon.forwards.tracing import attributes_as_they_were
from attnsurgeon.recording.randomness import OwnDice
from attnsurgeon.recording.shape_only import shape_only

_NEAR = 17  # how many sizes above and below are tried: enough for windows of up to 32
_LONG = 40  # operations that a condition may follow from
_FEW = 3

Given = tuple[Any, Any]  # args and kwargs
Values = dict[fx.Node, Any]


def sizes_that_turn(tracer: ShallowTracer, decisions: Sequence[Decision]) -> list[Given] | None:
    """Returns arguments of other sizes at which the last decision turns and the others do not.

    Args:
        tracer: of the trace in which they were met.
        decisions: in order.

    Returns:
        A few; None where it is not known from what the last decision follows.
    """
    condition = decisions[-1].condition
    if not tracer.on_meta or len(_behind(condition)) > _LONG:
        return None
    kept = attributes_as_they_were(tracer.root)
    with kept, OwnDice(), torch.no_grad(), _ByShape():
        if _turned(decisions[-1], tracer, _holders(tracer, None, None)) is None:
            return None
        turning = (given for given, values in _near(tracer) if _all(decisions, tracer, values))
        return list(itertools.islice(turning, _FEW))


class _ByShape(TorchFunctionMode):
    """Makes results on meta by shape alone, where that is known."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        made = shape_only(func, args, kwargs or {})
        return func(*args, **(kwargs or {})) if made is None else made


def _all(decisions: Sequence[Decision], tracer: ShallowTracer, values: Values) -> bool:
    """Whether the last decision turns with these arguments and no other does."""
    *before, last = decisions
    turns = _turned(last, tracer, values)
    return bool(turns) and not any(_turned(decision, tracer, values) for decision in before)


def _near(tracer: ShallowTracer) -> Iterator[tuple[Given, Values]]:
    """Arguments one axis of which has another size: near ones, then far ones."""
    leaves, spec = pytree.tree_flatten(tracer.given)
    axes = [
        (i, axis)
        for i, leaf in enumerate(leaves)
        if isinstance(leaf, Tensor)
        for axis in range(1, leaf.dim())
    ]
    steps = [sign * n for n in range(1, _NEAR) for sign in (1, -1)]
    for step in (*steps, *(1 << power for power in range(6, 11))):
        for i, axis in axes:
            shape = list(leaves[i].shape)
            shape[axis] += step
            if shape[axis] > 0:
                resized = leaves[i].new_empty(shape)
                given = pytree.tree_unflatten([*leaves[:i], resized, *leaves[i + 1 :]], spec)
                yield given, _holders(tracer, leaves[i], resized)


def _holders(tracer: ShallowTracer, old: Tensor | None, new: Tensor | None) -> Values:
    """What the placeholders of a trace stand for, with one tensor in place of another."""
    holders = (node for node in tracer.graph.nodes if node.op == "placeholder")
    values = ((node, tracer.values[node]) for node in holders)
    return {node: new if old is not None and value is old else value for node, value in values}


def _turned(decision: Decision, tracer: ShallowTracer, values: Values) -> bool | None:
    """Whether a decision turns out otherwise with these arguments; None where they do not run."""
    try:
        return bool(_value(decision.condition, tracer, values)) != decision.outcome
    except Exception:  # a stranger's modules may refuse a size in any way
        return None


def _value(node: fx.Node, tracer: ShallowTracer, values: Values) -> Any:
    """What a node would be."""
    if node not in values:
        if node.op == "get_attr":
            return tracer.values[node]
        args, kwargs = map_arg((node.args, node.kwargs), lambda n: _value(n, tracer, values))
        if node.op == "call_module":
            made = tracer.root.get_submodule(str(node.target))(*args, **kwargs)
        elif node.op == "call_method":
            made = getattr(args[0], str(node.target))(*args[1:], **kwargs)
        else:
            made = node.target(*args, **kwargs)  # type: ignore[operator]
        values[node] = made
    return values[node]


def _behind(node: fx.Node) -> set[fx.Node]:
    """All that a node follows from."""
    found, todo = {node}, [node]
    while todo:
        new = [n for n in todo.pop().all_input_nodes if n not in found]
        found.update(new)
        todo += new
    return found
