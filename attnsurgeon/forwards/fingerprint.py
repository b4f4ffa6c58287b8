"""Calls of a module -> a value that is equal for modules whose forwards trace to one graph.

Transformers repeat one block forty times. Their shallow graphs are the same where the classes, all
attributes (those of their children, too) and everything that was recorded of them agree: then the
same Python code has met the same things. What cannot be compared by value counts by its identity.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from attnsurgeon.forwards.alignment import constants_in
from attnsurgeon.recording.record import Call, Event, keyed_events

_PLAIN = (bool, int, float, str, type(None), torch.dtype, torch.device)
_TENSORS = ("_parameters", "_buffers")


def fingerprint(calls: list[Call], kinds: dict[Hashable, int]) -> Hashable:
    """Returns the value for a module by all its recorded calls.

    Args:
        calls: of one module.
        kinds: of the modules of this network, the numbers given so far; added to. By the id of
            a module, and by what is compared of it: those that are alike have the same.
    """
    return _of_module(calls[0].module, kinds), tuple(_of_call(call) for call in calls)


def _of_module(module: nn.Module, kinds: dict[Hashable, int]) -> int:
    if id(module) not in kinds:
        value = _description(module, kinds)
        kinds[id(module)] = kinds.setdefault(value, len(kinds))
    return kinds[id(module)]


def _description(module: nn.Module, kinds: dict[Hashable, int]) -> Hashable:
    attributes = tuple(
        (name, _of_value(value))
        for name, value in vars(module).items()
        if name not in (*_TENSORS, "_modules")
    )
    tensors = tuple(
        (kind, name, None if t is None else (tuple(t.shape), t.dtype, t.requires_grad))
        for kind in _TENSORS
        for name, t in vars(module)[kind].items()
    )
    children = tuple(
        (name, None if child is None else _of_module(child, kinds))
        for name, child in module._modules.items()
    )
    return type(module), attributes, tensors, children


def _of_value(value: Any) -> Hashable:
    if isinstance(value, _PLAIN):
        return type(value), value
    if type(value) in (tuple, list, set, torch.Size):
        return type(value), tuple(_of_value(v) for v in value)
    if isinstance(value, dict):
        return type(value), tuple((_of_value(k), _of_value(v)) for k, v in value.items())
    return id(value)


def _of_call(call: Call) -> Hashable:
    numbers: dict[fx.Node, int] = {}

    def number(node: fx.Node) -> Hashable:
        """Counts the values that the forward is given or makes; names its own parameters."""
        if node.op == "get_attr" and str(node.target).startswith(f"{call.path}."):
            return str(node.target)[len(call.path) + 1 :]
        return numbers.get(node, id(node))

    def enter(nodes: tuple[fx.Node, ...]) -> Hashable:
        for node in nodes:
            numbers.setdefault(node, len(numbers))
        return tuple((number(n), n.meta["shape"], n.meta["dtype"], n.meta["data"]) for n in nodes)

    found: list[Hashable] = [_form((call.args, call.kwargs)), enter(call.inputs)]
    for key, event in keyed_events(call):
        if isinstance(event, Event):
            made = event.nodes[0]
            whole = made.args[0] if made.meta.get("name") == "part" else made
            assert isinstance(whole, fx.Node)
            given = tuple(map(number, whole.all_input_nodes))
            constants = tuple(map(_of_value, constants_in((whole.args, whole.kwargs))))
            found.append((key, event.alias, given, constants, enter(event.nodes)))
        else:
            given = tuple(map(number, event.inputs))
            form = _form((event.args, event.kwargs, event.output))
            found.append((key, given, form, enter(event.inputs_after), enter(event.outputs)))
    found.append(tuple(map(number, call.outputs)))
    return tuple(found)


def _form(value: Any) -> Hashable:
    """The structure of nested arguments, and whatever in them is no tensor."""
    leaves, spec = pytree.tree_flatten(value)
    return str(spec), tuple(None if isinstance(v, Tensor) else _of_value(v) for v in leaves)
