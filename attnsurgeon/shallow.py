"""Call -> ShallowGraph: the forward of one module as an fx.Graph whose children are leaves.

The trace carries values: each node is also executed on what the record holds (meta tensors, and
the recorded outputs of the children), so iterating over a chunked tensor works, and the sequence
of operations is compared with the record as it grows. A trace in which a value decided a branch
is refused: it would be silently wrong at another input size.
"""

from __future__ import annotations

import inspect
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from attnsurgeon.record import Call, Event, operation_name, tensors_in

Key = tuple[str, str, int]  # ("module", child path, n-th call) or ("function", name, n-th use)


@dataclass(frozen=True)
class ShallowGraph:
    """The forward of one module.

    Attributes:
        evaluate: the graph in eval mode.
        train: the graph in training mode where it differs, else None.
        structured: the placeholders are the flattened tensors of nested arguments.
        methods: key -> name of the method of the module in whose code the operation stands.
    """

    evaluate: fx.Graph
    train: fx.Graph | None
    structured: bool
    methods: dict[Key, str]


class Untraceable(Exception):
    """Why a forward has no faithful shallow graph; the text is the reason."""


def shallow_graph(calls: list[Call]) -> ShallowGraph:
    """Traces the forward of the module of `calls` (all its recorded calls).

    Raises:
        Untraceable: with the reason.
    """
    call = calls[0]
    sequences = [sequence_of(c) for c in calls]
    if any(s != sequences[0] for s in sequences):
        raise Untraceable("its calls take different ways through its forward")
    try:
        return _both_modes(call, structured=False)
    except Untraceable as plain:
        try:
            return _both_modes(call, structured=True)
        except Untraceable:
            raise plain from None


def sequence_of(call: Call) -> list[Key]:
    """The data operations of a call's own forward, in order, as keys."""
    seen: Counter[tuple[str, str]] = Counter()
    keys = []
    for event in call.events:
        name = _name_of(event, call)
        if name is not None:
            keys.append((*name, seen[name]))
            seen[name] += 1
    return keys


def key_of(call: Call, wanted: Event | Call) -> Key:
    """The key of one event of a call."""
    carrying = [e for e in call.events if _name_of(e, call) is not None]
    return sequence_of(call)[[e is wanted for e in carrying].index(True)]


def _name_of(event: Event | Call, call: Call) -> tuple[str, str] | None:
    if isinstance(event, Call):
        return "module", child_name(call, event)
    if not any(n.meta["data"] for n in event.nodes):
        return None
    return "function", event.name


def child_name(call: Call, child: Call) -> str:
    """The name of a called module relative to its caller, as torch.fx will find it."""
    prefix = f"{call.path}." if call.path else ""
    if child.path.startswith(prefix) and child.path != call.path:
        return child.path[len(prefix) :]
    for name, module in call.module.named_modules():
        if module is child.module:  # registered elsewhere first
            return name
    return f"<{child.path}>"


def _both_modes(call: Call, structured: bool) -> ShallowGraph:
    module = call.module
    assert not module.training
    evaluate, methods = _trace(call, structured)
    try:
        module.train()
        train, _ = _trace(call, structured, check=False)
    finally:
        module.eval()
    same = str(evaluate.python_code("self").src) == str(train.python_code("self").src)
    return ShallowGraph(evaluate, None if same else train, structured, methods)


def _trace(call: Call, structured: bool, check: bool = True) -> tuple[fx.Graph, dict[Key, str]]:
    tracer = _ShallowTracer(call, structured, check)
    before = {id(m): dict(m.__dict__) for m in call.module.modules()}
    try:
        graph = tracer.trace(call.module)
    except Untraceable:
        raise
    except Exception as error:  # a stranger's forward meets symbolic values: any error can come
        text = str(error).split("\n")[0]
        raise Untraceable(f"{type(error).__name__}: {text}{_place(error)}") from error
    finally:
        for module in call.module.modules():  # caches and constants that a forward left behind
            module.__dict__.clear()
            module.__dict__.update(before[id(module)])
    for node in graph.nodes:
        node.type = None  # annotations would need imports
        if node.op == "get_attr" and str(node.target).startswith("_tensor_constant"):
            raise Untraceable("it makes a constant tensor in its forward")
    tracer.finish()
    return graph, tracer.methods


def _place(error: BaseException) -> str:
    """File and line of the user's code in which tracing failed."""
    trace = error.__traceback__
    place = ""
    while trace is not None:
        name = trace.tb_frame.f_code.co_filename
        if "/torch/" not in name and "attnsurgeon" not in name:
            place = f" ({name.rsplit('/', 1)[-1]}:{trace.tb_lineno})"
        trace = trace.tb_next
    return place


class _Proxy(fx.Proxy):
    """A proxy that knows the length of the tuple or list it stands for."""

    def __len__(self) -> int:
        value = self.tracer.values.get(self.node)  # type: ignore[attr-defined]
        if isinstance(value, (tuple, list)):
            return len(value)
        raise Untraceable("its forward asks for the length of a tensor")


class _ShallowTracer(fx.Tracer):
    proxy_buffer_attributes = True

    def __init__(self, call: Call, structured: bool, check: bool) -> None:
        super().__init__()
        self.call = call
        self.structured = structured
        self.check = check
        self.expected = sequence_of(call) if check else []
        self.values: dict[fx.Node, Any] = {}
        self.data: set[fx.Node] = set()
        self.seen: Counter[tuple[str, str]] = Counter()
        self.at = 0
        self.methods: dict[Key, str] = {}
        self.outputs: dict[str, list[Any]] = {}
        self.tensors = dict(call.module.named_parameters(remove_duplicate=False))
        self.tensors |= dict(call.module.named_buffers(remove_duplicate=False))
        for event in call.events:
            if isinstance(event, Call):
                self.outputs.setdefault(child_name(call, event), []).append(event.output)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return True

    def create_args_for_root(self, root_fn, is_module, concrete_args=None):
        given = _bound(root_fn, self.call)
        if not self.structured:
            plain = inspect.signature(root_fn).parameters.values()
            if any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in plain):
                raise Untraceable("its forward takes *args or **kwargs")
            fn, args = super().create_args_for_root(root_fn, is_module, concrete_args)
            names = [p.name for p in inspect.signature(root_fn).parameters.values()][1:]
            for proxy, name in zip(args[1:], names, strict=True):
                self.values[proxy.node] = given.arguments.get(name)
                if any(True for _ in tensors_in(given.arguments.get(name))):
                    self.data.add(proxy.node)
            return fn, args
        leaves, spec = pytree.tree_flatten((self.call.args, self.call.kwargs))
        proxies: list[Any] = []
        for i, leaf in enumerate(leaves):
            if isinstance(leaf, Tensor):
                proxy = self.create_proxy("placeholder", f"x{i}", (), {})
                self.values[proxy.node] = leaf
                self.data.add(proxy.node)
                proxies.append(proxy)
            elif leaf is None or isinstance(leaf, (bool, int, float, str)):
                proxies.append(leaf)
            else:
                raise Untraceable(f"its forward is given a {type(leaf).__name__}")
        args, kwargs = pytree.tree_unflatten(proxies, spec)

        def flat(root: nn.Module) -> Any:
            return root_fn(root, *args, **kwargs)

        return flat, [self.root]

    def create_node(self, kind, target, args, kwargs, name=None, type_expr=None):
        node = super().create_node(kind, target, args, kwargs, name, type_expr)
        if kind in ("call_function", "call_method", "call_module", "get_attr"):
            self.values[node] = self.compute(node)
            if any(n in self.data for n in node.all_input_nodes) and self.is_value(node):
                self.data.add(node)
            self.align(node)
        return node

    def is_value(self, node: fx.Node) -> bool:
        """Whether a node stands for tensors: a size is a number, and no data of the record."""
        changed = operation_name(node.target) == "setitem"
        return changed or any(True for _ in tensors_in(self.values[node]))

    def compute(self, node: fx.Node) -> Any:
        """Executes one node on the recorded values."""
        if node.op == "call_module":
            made = self.outputs.get(str(node.target), [])
            n = self.seen["module", str(node.target)]
            if n >= len(made):
                raise Untraceable(f"{node.target} runs here but did not in the record")
            return made[n]
        if node.op == "get_attr":
            return self.tensors.get(str(node.target))
        args = fx.node.map_arg(node.args, lambda n: self.values[n])
        kwargs = fx.node.map_arg(node.kwargs, lambda n: self.values[n])
        args, kwargs = _mutable(args), _mutable(kwargs)
        with torch.no_grad():
            if node.op == "call_method":
                return getattr(args[0], str(node.target))(*args[1:], **kwargs)
            return node.target(*args, **kwargs)  # type: ignore[operator]

    def align(self, node: fx.Node) -> None:
        """Compares the node with the next operation of the record."""
        if node.op != "call_module" and node not in self.data:
            return
        if node.op == "call_module":
            name = ("module", str(node.target))
        else:
            first = node.args[0] if node.args else None
            held = self.values.get(first) if isinstance(first, fx.Node) else None
            plain = operation_name(node.target)
            if plain in ("getitem", "getattr") and not isinstance(held, Tensor):
                return  # taking a value out of a tuple
            if plain == "getattr":
                plain = str(node.args[1])
            name = ("function", plain)
        key = (*name, self.seen[name])
        self.seen[name] += 1
        node.meta["key"] = key
        self.methods[key] = self.method()
        if not self.check:
            return
        if self.at >= len(self.expected) or self.expected[self.at] != key:
            wanted = self.expected[self.at] if self.at < len(self.expected) else None
            raise Untraceable(f"its trace runs {_say(key)} where the record has {_say(wanted)}")
        self.at += 1

    def finish(self) -> None:
        """Checks that the whole record was met."""
        if self.check and self.at != len(self.expected):
            raise Untraceable(f"its trace leaves out {_say(self.expected[self.at])}")

    def method(self) -> str:
        """The method of the traced module whose code is running."""
        frame = sys._getframe(1)
        while frame is not None:
            if frame.f_locals.get("self") is self.root and frame.f_code.co_name != "__call__":
                return frame.f_code.co_name
            frame = frame.f_back
        return "forward"

    def iter(self, obj: fx.Proxy) -> Iterator[Any]:
        value = self.values.get(obj.node)
        if isinstance(value, (tuple, list)):
            return iter([obj[i] for i in range(len(value))])
        if isinstance(value, Tensor):
            raise Untraceable("its forward iterates over the values of a tensor")
        return super().iter(obj)

    def keys(self, obj: fx.Proxy) -> Any:
        value = self.values.get(obj.node)
        return list(value) if isinstance(value, dict) else super().keys(obj)

    def to_bool(self, obj: fx.Proxy) -> bool:
        raise Untraceable("its forward decides by a value that depends on the input")


def _say(key: Key | None) -> str:
    return "nothing" if key is None else f"{key[1]}" + (f"#{key[2] + 1}" if key[2] else "")


def _bound(root_fn: Any, call: Call) -> inspect.BoundArguments:
    bound = inspect.signature(root_fn).bind(call.module, *call.args, **call.kwargs)
    bound.apply_defaults()
    return bound


def _mutable(value: Any) -> Any:
    """fx holds lists as immutable ones; functions are given plain lists."""
    if isinstance(value, (list, fx.immutable_collections.immutable_list)):
        return [_mutable(v) for v in value]
    if isinstance(value, tuple):
        return tuple(_mutable(v) for v in value)
    if isinstance(value, dict):
        return {k: _mutable(v) for k, v in value.items()}
    return value
