"""One forward on symbolic values: torch.fx's tracer, held to the record of the same forward.

Children are leaves. Every node is also executed on what the record holds (meta tensors, and the
recorded outputs of the children), so iterating over a chunked tensor works, and each operation is
compared with the record as it comes: its name, the values it works on, its constants. What fx
would bake or lose in silence (a decision by a value, the type of a proxy, dice, the grad mode,
autograd functions, checkpointing) ends the trace with a reason.
"""

from __future__ import annotations

import contextlib
import inspect
import operator
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.immutable_collections import immutable_dict
from torch.fx.node import map_arg
from torch.utils import _pytree as pytree

from attnsurgeon.forwards.alignment import Alignment, Untraceable, constants_in
from attnsurgeon.forwards.conversions import NumberAsked, conversions
from attnsurgeon.forwards.decisions import Decision, counted, decided, is_tensor
from attnsurgeon.forwards.in_place import Holders
from attnsurgeon.forwards.makers import Making, TensorMade
from attnsurgeon.forwards.privately import PrivateTracer
from attnsurgeon.forwards.proxies import Proxy
from attnsurgeon.forwards.retype import is_placeholder
from attnsurgeon.forwards.running import (
    Children,
    answer,
    executed,
    holds_tensors,
    mutable,
    reads_size,
    recorded_name,
)
from attnsurgeon.forwards.whereabouts import line_of_code, modes, stands_at
from attnsurgeon.recording.record import Call, Key, tensors_in


class Variadic(Untraceable):
    """A forward takes *args or **kwargs: only a trace on flattened arguments can follow it."""


class ShallowTracer(PrivateTracer):
    """Traces the forward of one module; see the head of this file.

    Args:
        call: the record of one call of the module.
        structured: flatten the arguments, one placeholder for a tensor or an int.
        check: hold the trace to the record; not in training mode, of which there is none.
        leave_out: arguments that the record was not given are None, else a proxy, which never is.
        way: how the first decisions by sizes turn out; those after them follow from the sizes.
        given: arguments of other sizes than the recorded ones.
        alone: children run instead of answering from the record, which went another way.

    Attributes:
        methods: key -> name of the module's method in whose code the operation stands.
        holders: which nodes stand for which tensors.
        missing: names of the arguments that the record was not given, or given as None.
        decisions: what the forward decided by sizes, in order.
        went_on: after the last decision of `way` it did more than look at sizes.
    """

    proxy_buffer_attributes = True

    def __init__(
        self,
        call: Call,
        structured: bool,
        check: bool,
        *,
        leave_out: bool = False,
        way: Sequence[bool] = (),
        given: tuple[Any, Any] | None = None,
        alone: bool = False,
    ) -> None:
        super().__init__()
        self.call = call
        self.structured = structured
        self.leave_out = leave_out
        self.way = way
        self.given = given or (call.args, call.kwargs)
        self.alone = alone
        self.decisions: list[Decision] = []
        self.went_on = False
        self._converts = False  # int and float are steps of the forward
        self._makes = False  # and so are tensors made of plain numbers
        self._running = False
        self._known: dict[str, bool] = {}  # a condition, spelled out -> its outcome
        self._sizes: dict[fx.Node, str] = {}  # what follows from sizes alone -> spelled out
        self._asked: set[fx.Node] = set()  # arguments whose type was asked for
        self.missing: list[str] = []
        self.methods: dict[Key, str] = {}
        self.values: dict[fx.Node, Any] = {}
        self.holders = Holders()
        self._alignment = Alignment(call) if check else None
        self._data: set[fx.Node] = set()
        self._seen: Counter[tuple[str, str]] = Counter()
        self._children = Children(call)
        self._tensors = dict(_tensors_of(call.module))
        self._modes = modes()
        self.on_meta = all(t.is_meta for t in tensors_in(self.given))

    # What fx asks for.

    def proxy(self, node: fx.Node) -> fx.Proxy:
        """Wraps a node."""
        return Proxy(node, self)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Makes every child a leaf."""
        return True

    def standing_in(self) -> Iterable[tuple[dict[str, Any], str, type]]:
        """Lets `int` and `float` of a size be steps of the forward, where it needs them."""
        return conversions(self.root) if self._converts else ()

    def trace(self, root: nn.Module, concrete_args: None = None) -> fx.Graph:  # type: ignore[override]
        """Returns the graph of the forward of `root`."""
        while True:
            making = Making(self._made, lambda: self._running)
            try:
                with making if self._makes else contextlib.nullcontext():
                    return super().trace(root, concrete_args)
            except (NumberAsked, TensorMade) as asked:
                steps = {"_converts": self._converts, "_makes": self._makes}
                step = "_makes" if isinstance(asked, TensorMade) else "_converts"
                if steps[step]:
                    raise
                vars(self).update(vars(self.again()), **steps | {step: True})

    def again(self) -> ShallowTracer:
        """A tracer of the same, before its work."""
        return ShallowTracer(
            self.call,
            self.structured,
            self._alignment is not None,
            leave_out=self.leave_out,
            way=self.way,
            given=self.given,
            alone=self.alone,
        )

    def create_args_for_root(self, root_fn, is_module, concrete_args=None):
        """Makes the placeholders."""
        if self.structured:
            return self._flat_args(root_fn)
        plain = inspect.signature(root_fn).parameters.values()
        if any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in plain):
            raise Variadic("its forward takes *args or **kwargs")
        args, kwargs = self.given
        bound = inspect.signature(root_fn).bind(self.root, *args, **kwargs)
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
        leaves, spec = pytree.tree_flatten(self.given)
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

    def _made(self, function: Any, args: tuple, kwargs: dict[str, Any]) -> fx.Proxy:
        return self.create_proxy("call_function", function, args, kwargs)

    def create_arg(self, a: Any) -> Any:
        """Writes down a dict of a class of its own as a call of it; fx would make a plain dict."""
        kind = type(a)
        if isinstance(a, Tensor) and all(a is not t for t in self._tensors.values()):
            raise TensorMade(
                f"its forward uses a tensor that it draws or no attribute is ({line_of_code()})"
            )
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
        args = map_arg(args, self.holders.present)
        kwargs = map_arg(kwargs, self.holders.present)
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
            self.count(obj.node, len(value))
            return iter([obj[i] for i in range(len(value))])
        if isinstance(value, Tensor):
            raise Untraceable("its forward iterates over the values of a tensor")
        return super().iter(obj)

    def keys(self, obj: fx.Proxy) -> Any:
        """Lists the keys of a dict that the record holds."""
        value = self.values.get(obj.node)
        return list(value) if isinstance(value, dict) else super().keys(obj)

    # What follows from sizes.

    def to_bool(self, obj: fx.Proxy) -> bool:
        """Decides by a size, which the code will test again; by anything else it would be baked."""
        node = obj.node
        if node not in self._sizes:
            raise Untraceable("its forward decides by a value that depends on the input")
        spelled = self._sizes[node]
        if spelled not in self._known:
            number = len(self.decisions)
            forced = number < len(self.way)
            outcome = self.way[number] if forced else bool(self.values[node])
            if number == len(self.way) - 1:
                self.went_on = False
            self._known[spelled] = outcome
            where = line_of_code()
            test = self._test(decided, (node, outcome, where))
            self.decisions.append(Decision(test, node, outcome, where))
        return self._known[spelled]

    def count(self, node: fx.Node, count: int) -> None:
        """Lets the code test how many parts there are of a tensor."""
        if node in self._data and node.op in ("call_function", "call_method"):
            self._test(counted, (node, count, line_of_code()))

    def asked_for_a_tensor(self, node: fx.Node) -> None:
        """Lets the code test again that an argument is a tensor, which the forward has asked."""
        if node.op == "placeholder" and node not in self._asked:
            self._asked.add(node)
            self._test(is_tensor, (node, line_of_code()))

    def _test(self, test: Any, args: tuple[Any, ...]) -> fx.Node:
        """Adds a test to the graph; in the trace it is not made, which may be sent another way."""
        return super().create_node("call_function", test, args, {})

    def _spell(self, node: fx.Node) -> None:
        """Notes a value that follows from sizes alone."""
        value = self.values[node]
        if holds_tensors(value):
            return
        if node.op == "placeholder":
            spelled = node.name if type(value) is int and self.on_meta else ""
        elif reads_size(node):
            spelled = f"{node.target}{node.args}{node.kwargs}"
        elif self.on_meta and _is_part(node) and type(value) is int:
            spelled = node.name  # one of a child's results
        elif all(n in self._sizes for n in node.all_input_nodes):
            known = map_arg((node.args, node.kwargs), lambda n: _Spelled(self._sizes[n]))
            spelled = f"{node.target}{known}"
        else:
            spelled = ""
        if spelled:
            self._sizes[node] = spelled

    # Running along.

    def _enter(self, node: fx.Node, value: Any, data: bool = True) -> None:
        self.values[node] = value
        self._spell(node)
        if data and holds_tensors(value):
            self._data.add(node)
        if isinstance(value, Tensor):
            self.holders.hold(value, node)

    def _run(self, node: fx.Node) -> None:
        """Executes a node on the recorded values; compares it with the record if it is data."""
        if modes() != self._modes:
            stands_at(self.root)  # which has better words for autograd functions and checkpoints
            raise Untraceable("its forward switches gradients or autocast on or off")
        args, kwargs = mutable(map_arg((node.args, node.kwargs), self.values.__getitem__))
        if any(isinstance(c, torch.device) for c in constants_in((node.args, node.kwargs))):
            raise Untraceable("its forward names a device, which may be another one later")
        if node.op == "call_module":
            self._answer(node, args, kwargs)
            return
        versions = [(t, t._version) for t in tensors_in((args, kwargs))]
        made = self.on_meta and not versions  # where the record was made
        with self._run_inside(), torch.device("meta") if made else contextlib.nullcontext():
            value = executed(node, args, kwargs)
        changed = [t for t, version in versions if t._version != version]
        name = recorded_name(node, args)
        beside = [n for n in node.all_input_nodes if n not in self._data]
        # What `scale.to(x)` hands on as it is does not depend on x: the record has no operation.
        same = isinstance(value, Tensor) and any(value is self.values[n] for n in beside)
        if len(beside) == len(node.all_input_nodes) or (same and not changed):
            self.values[node] = value
            self._spell(node)
            return
        if name is not None and holds_tensors(value):  # a size is no data of the record
            key = self._give_key(node, "function", name)
            if self._alignment is not None:
                results = list(tensors_in(value))
                self._alignment.function(key, (args, kwargs), results, node.target is getattr)
        self._enter(node, value)
        for tensor in changed:
            self.holders.supersede(tensor, node)

    @contextlib.contextmanager
    def _run_inside(self) -> Iterator[None]:
        """Lets what runs along make tensors of its own."""
        before, self._running = self._running, True
        try:
            yield
        finally:
            self._running = before

    def _answer(self, node: fx.Node, args: tuple, kwargs: dict) -> None:
        """Lets a child return what it did in the record, said of the tensors of this trace."""
        key = self._give_key(node, "module", str(node.target))
        if self.alone:
            self._enter(node, self._run_child(node, args, kwargs))
            return
        child = self._children.call(key)
        if self._alignment is not None:
            self._alignment.child(key, child, (args, kwargs))
        value, changed = answer(child, args, kwargs, training=self._alignment is None)
        if self._alignment is not None:
            self._alignment.child_made(child, value)
        self._enter(node, value, data=any(n.meta["data"] for n in child.outputs))
        for tensor in changed:
            if any(t is tensor for t in tensors_in(value)):
                self.holders.supersede(tensor, node)

    def _run_child(self, node: fx.Node, args: tuple, kwargs: dict) -> Any:
        """Runs a child, whose record is that of another way."""
        if not self.on_meta:
            raise Untraceable("another way through its forward would have to be run on values")
        versions = [(t, t._version) for t in tensors_in((args, kwargs))]
        child = self.root.get_submodule(str(node.target))
        with torch.no_grad(), self.unwatched(child), self._run_inside():
            value = child(*args, **kwargs)
        for tensor, version in versions:
            if tensor._version != version:
                self.holders.supersede(tensor, node)
        return value

    def _give_key(self, node: fx.Node, kind: str, name: str) -> Key:
        self.went_on = True
        key = (kind, name, self._seen[kind, name])
        self._seen[kind, name] += 1
        node.meta["key"] = key
        node.meta["point"], self.methods[key] = stands_at(self.root)
        return key


class _Spelled(str):
    """A spelled value inside of another: without quotes."""

    __repr__ = str.__str__


def _is_part(node: fx.Node) -> bool:
    """Whether a node takes one of the results of a child."""
    whole = node.args[0] if node.target is operator.getitem else None
    return isinstance(whole, fx.Node) and whole.op == "call_module"


def _tensors_of(root: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The tensors a forward can name: parameters, buffers, plain attributes."""
    for path, module in root.named_modules(remove_duplicate=False):
        for held in (vars(module), module._buffers, module._parameters):
            for name, value in held.items():
                if isinstance(value, Tensor):
                    yield (f"{path}.{name}" if path else name), value
