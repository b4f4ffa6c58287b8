"""One forward on symbolic values: torch.fx's tracer, held to the record of the same forward.

Children are leaves. Every node is also executed on what the record holds (meta tensors, and the
recorded outputs of the children), so iterating over a chunked tensor works, and each operation is
compared with the record as it comes: its name, the values it works on, its constants. What fx
would bake or lose in silence (a decision by a value, the type of a proxy, dice, the grad mode,
autograd functions, checkpointing) ends the trace with a reason.
"""

from __future__ import annotations

import inspect
import operator
import sys
import threading
from collections import Counter, OrderedDict
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from types import CodeType
from typing import Any

import torch
import torch.utils.checkpoint
from torch import Tensor, fx, nn
from torch.fx.immutable_collections import immutable_dict
from torch.fx.node import map_arg
from torch.utils import _pytree as pytree

from attnsurgeon.forwards.alignment import Alignment, Untraceable, constants_in
from attnsurgeon.forwards.proxies import Proxy
from attnsurgeon.forwards.retype import is_placeholder
from attnsurgeon.recording.record import (
    Call,
    Key,
    child_name,
    map_tensors,
    operation_name,
    tensors_in,
)
from attnsurgeon.recording.shape_only import shape_only

Point = tuple[tuple[CodeType, int], ...]  # where in the code: each frame's code and instruction

_TRACE = fx.Tracer.trace.__code__
_CHECKPOINT = torch.utils.checkpoint.__file__


class Variadic(Untraceable):
    """A forward takes *args or **kwargs: only a trace on flattened arguments can follow it."""


class ShallowTracer(fx.Tracer):
    """Traces the forward of one module; see the head of this file.

    Args:
        call: the record of one call of the module.
        structured: flatten the arguments, one placeholder for a tensor or an int.
        check: hold the trace to the record; not in training mode, of which there is none.

    Attributes:
        methods: key -> name of the module's method in whose code the operation stands.
        shadowed: keys of changes in place after which the forward goes on with the changed
            tensor instead of the operation's result.
        missing: names of the arguments that the record was not given, or given as None.
    """

    proxy_buffer_attributes = True

    def __init__(self, call: Call, structured: bool, check: bool, leave_out: bool = False) -> None:
        super().__init__()
        self.call = call
        self.structured = structured
        self.leave_out = leave_out  # what is missing is None, else a proxy, which never is
        self.missing: list[str] = []
        self.methods: dict[Key, str] = {}
        self.shadowed: set[Key] = set()
        self.values: dict[fx.Node, Any] = {}
        self._alignment = Alignment(call) if check else None
        self._data: set[fx.Node] = set()
        self._seen: Counter[tuple[str, str]] = Counter()
        self._holders: dict[
            int, list[fx.Node]
        ] = {}  # id of a tensor -> the nodes that stand for it
        self._replaced: dict[fx.Node, fx.Node] = {}  # node -> what its tensor has become in place
        self._children: dict[str, list[Call]] = {}
        for event in call.events:
            if isinstance(event, Call):
                self._children.setdefault(child_name(call, event), []).append(event)
        self._tensors = dict(_tensors_of(call.module))
        self._thread = threading.get_ident()
        self._modes = _modes()

    # What fx asks for.

    def proxy(self, node: fx.Node) -> fx.Proxy:
        """Wraps a node."""
        return Proxy(node, self)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Makes every child a leaf."""
        return True

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        """Records the call of a child; fx patches the modules of other threads too."""
        if threading.get_ident() != self._thread:
            return forward(*args, **kwargs)
        return super().call_module(m, forward, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        """Answers for a parameter or buffer with a proxy, in this thread."""
        if threading.get_ident() != self._thread:
            return attr_val
        return super().getattr(attr, attr_val, parameter_proxy_cache)

    def create_args_for_root(self, root_fn, is_module, concrete_args=None):
        """Makes the placeholders."""
        if self.structured:
            return self._flat_args(root_fn)
        plain = inspect.signature(root_fn).parameters.values()
        if any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in plain):
            raise Variadic("its forward takes *args or **kwargs")
        bound = inspect.signature(root_fn).bind(self.root, *self.call.args, **self.call.kwargs)
        bound.apply_defaults()
        fn, args = super().create_args_for_root(root_fn, is_module, concrete_args)
        for i, parameter in enumerate(list(plain)[1:], start=1):
            given = bound.arguments.get(parameter.name)
            self._enter(args[i].node, given)
            if given is None:
                self.missing.append(parameter.name)
                args[i] = None if self.leave_out else args[i]
        return fn, args

    def _flat_args(self, root_fn: Any) -> tuple[Any, list[Any]]:
        leaves, spec = pytree.tree_flatten((self.call.args, self.call.kwargs))
        given: list[Any] = []
        for i, leaf in enumerate(leaves):
            if is_placeholder(leaf):
                given.append(self.create_proxy("placeholder", f"x{i}", (), {}))
                self._enter(given[-1].node, leaf)
            elif leaf is None or isinstance(leaf, (bool, float, str)):
                given.append(leaf)
            else:
                raise Untraceable(f"its forward is given a {type(leaf).__name__}")
        args, kwargs = pytree.tree_unflatten(given, spec)

        def flat(root: nn.Module) -> Any:
            return root_fn(root, *args, **kwargs)

        return flat, [self.root]

    def create_arg(self, a: Any) -> Any:
        """Writes down a dict of a class of its own as a call of it; fx would make a plain dict."""
        kind = type(a)
        if not isinstance(a, dict) or kind in (dict, immutable_dict):
            return super().create_arg(a)
        if is_dataclass(a):  # Hugging Face's outputs are dicts, too
            held = {field.name: self.create_arg(getattr(a, field.name)) for field in fields(a)}
            return self.create_node("call_function", kind, (), held)
        if kind is not OrderedDict:
            raise Untraceable(f"its forward makes a {kind.__name__}, a dict of its own kind")
        pairs = [(key, self.create_arg(value)) for key, value in a.items()]
        return self.create_node("call_function", kind, (pairs,), {})

    def create_node(self, kind, target, args, kwargs, name=None, type_expr=None):
        """Adds a node to the graph and runs it."""
        args = map_arg(args, self._present)
        kwargs = map_arg(kwargs, self._present)
        node = super().create_node(kind, target, args, kwargs, name, type_expr)
        if kind == "output":
            if self._alignment is not None:
                self._alignment.end(map_arg(node.args, self.values.__getitem__))
        elif kind == "get_attr":
            self.values[node] = self._tensors.get(str(node.target))
        elif kind != "placeholder":
            self._run(node)
        return node

    def iter(self, obj: Any) -> Iterator[Any]:
        """Iterates over a tuple or list whose length the record knows."""
        value = self.values.get(obj.node)
        if isinstance(value, (tuple, list)):
            return iter([obj[i] for i in range(len(value))])
        if isinstance(value, Tensor):
            raise Untraceable("its forward iterates over the values of a tensor")
        return super().iter(obj)

    def keys(self, obj: fx.Proxy) -> Any:
        """Lists the keys of a dict that the record holds."""
        value = self.values.get(obj.node)
        return list(value) if isinstance(value, dict) else super().keys(obj)

    def to_bool(self, obj: fx.Proxy) -> bool:
        """Refuses: the decision would be baked."""
        raise Untraceable("its forward decides by a value that depends on the input")

    # Running along.

    def _enter(self, node: fx.Node, value: Any, data: bool = True) -> None:
        self.values[node] = value
        if data and _holds_tensors(value):
            self._data.add(node)
        if isinstance(value, Tensor):
            self._holders.setdefault(id(value), []).append(node)

    def _run(self, node: fx.Node) -> None:
        """Executes a node on the recorded values; compares it with the record if it is data."""
        if _modes() != self._modes:
            self._place()  # which has better words for autograd functions and checkpoints
            raise Untraceable("its forward switches gradients or autocast on or off")
        args, kwargs = _mutable(map_arg((node.args, node.kwargs), self.values.__getitem__))
        if any(isinstance(c, torch.device) for c in constants_in((node.args, node.kwargs))):
            raise Untraceable("its forward names a device, which may be another one later")
        if node.op == "call_module":
            self._answer(node, args, kwargs)
            return
        versions = [(t, t._version) for t in tensors_in((args, kwargs))]
        value = _executed(node, args, kwargs)
        changed = [t for t, version in versions if t._version != version]
        name = _plain_name(node, args)
        if not any(n in self._data for n in node.all_input_nodes):
            self.values[node] = value
            return
        if name is not None and _holds_tensors(value):  # a size is no data of the record
            key = self._give_key(node, "function", name)
            if self._alignment is not None:
                results = list(tensors_in(value))
                self._alignment.function(key, (args, kwargs), results, node.target is getattr)
        self._enter(node, value)
        for tensor in changed:
            self._supersede(tensor, node)

    def _give_key(self, node: fx.Node, kind: str, name: str) -> Key:
        key = (kind, name, self._seen[kind, name])
        self._seen[kind, name] += 1
        node.meta["key"] = key
        node.meta["point"], self.methods[key] = self._place()
        return key

    def _place(self) -> tuple[Point, str]:
        """The point in the code that makes a node, and the module's method it belongs to."""
        point: list[tuple[CodeType, int]] = []
        method = ""
        frame = sys._getframe(1)
        while frame is not None and frame.f_code is not _TRACE:
            code = frame.f_code
            own = frame.f_locals.get("self") is self.root
            if code.co_name == "forward" and not own and code in _codes_of_autograd():
                raise Untraceable("its forward calls an autograd function, with its own gradient")
            if code.co_filename == _CHECKPOINT:
                raise Untraceable("its forward runs a part of itself under a checkpoint")
            if not method and own:
                method = code.co_name
            point.append((code, frame.f_lasti))
            frame = frame.f_back
        return tuple(point), method or "forward"

    def _answer(self, node: fx.Node, args: tuple, kwargs: dict) -> None:
        """Lets a child return what it did in the record, said of the tensors of this trace."""
        key = self._give_key(node, "module", str(node.target))
        made = self._children.get(str(node.target), [])
        if key[2] >= len(made):
            raise Untraceable(f"{node.target} runs here but did not in the record")
        child = made[key[2]]
        if self._alignment is not None:
            self._alignment.child(key, child, (args, kwargs))
        same: dict[int, Tensor] = {}
        changed = []
        for tensor, twin, before, after in zip(
            tensors_in((args, kwargs)),
            tensors_in((child.args, child.kwargs)),
            child.inputs,
            child.inputs_after,
            strict=False,
        ):
            # What a child hands through in eval mode (dropout) it may copy in training mode.
            handed = self._alignment is not None or before is not after
            same[id(twin)] = tensor if handed else tensor.clone()
            changed += [tensor] if before is not after else []
        value = map_tensors(child.output, lambda t: same.get(id(t), t))
        if self._alignment is not None:
            self._alignment.child_made(child, value)
        self._enter(node, value, data=any(n.meta["data"] for n in child.outputs))
        for tensor in changed:
            if any(t is tensor for t in tensors_in(value)):
                self._supersede(tensor, node)

    # Changes in place.

    def _supersede(self, tensor: Tensor, node: fx.Node) -> None:
        """Lets `node` stand for a tensor from now on, in place of all that stood for it."""
        for holder in self._holders.get(id(tensor), []):
            if holder is not node:
                self._replaced[holder] = node
        self._holders[id(tensor)] = [node]

    def _present(self, node: fx.Node) -> fx.Node:
        """The node that stands for what a node's tensor has become."""
        while node in self._replaced:
            node = self._replaced[node]
            if "key" in node.meta:
                self.shadowed.add(node.meta["key"])
        return node


def _tensors_of(root: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The tensors a forward can name: parameters, buffers, plain attributes."""
    for path, module in root.named_modules(remove_duplicate=False):
        for held in (vars(module), module._buffers, module._parameters):
            for name, value in held.items():
                if isinstance(value, Tensor):
                    yield (f"{path}.{name}" if path else name), value


def _codes_of_autograd(kind: type = torch.autograd.Function) -> Iterator[CodeType]:
    """The code of every autograd function's forward; C calls it, so no frame tells of it."""
    forward = vars(kind).get("forward")
    code = getattr(getattr(forward, "__func__", forward), "__code__", None)
    if code is not None:
        yield code
    for further in kind.__subclasses__():
        yield from _codes_of_autograd(further)


def _modes() -> tuple[bool, bool, int]:
    depth = torch.autocast_increment_nesting()
    torch.autocast_decrement_nesting()
    return torch.is_grad_enabled(), torch.is_inference_mode_enabled(), depth


def _executed(node: fx.Node, args: tuple, kwargs: dict) -> Any:
    draws = not all(t.is_meta for t in tensors_in((args, kwargs)))  # on meta nothing is drawn
    method = getattr(Tensor, str(node.target), None) if node.op == "call_method" else None
    made = None if draws else shape_only(method or node.target, args, kwargs)
    if made is not None:
        return made
    with torch.no_grad(), torch.random.fork_rng(devices=[], enabled=draws):
        if node.op == "call_method":
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        made = node.target(*args, **kwargs)  # type: ignore[operator]
        return args[0] if node.target is operator.setitem else made


def _plain_name(node: fx.Node, args: tuple) -> str | None:
    """The operation's name in the record; None for putting values in an object, or for taking."""
    if isinstance(node.target, type) and not issubclass(node.target, Tensor):
        return None
    name = operation_name(node.target)
    if name in ("getitem", "getattr") and not isinstance(args[0], Tensor):
        return None
    return str(node.args[1]) if name == "getattr" else name


def _holds_tensors(value: Any) -> bool:
    return any(True for _ in tensors_in(value))


def _mutable(value: Any) -> Any:
    """fx holds lists and dicts as immutable ones; functions are given plain ones."""
    if isinstance(value, list):
        return [_mutable(v) for v in value]
    if isinstance(value, tuple) and not hasattr(value, "_fields"):
        return tuple(_mutable(v) for v in value)
    if isinstance(value, dict):
        return {k: _mutable(v) for k, v in value.items()}
    return value
