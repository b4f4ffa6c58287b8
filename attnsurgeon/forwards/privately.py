"""torch.fx's tracer, at work on the objects of one network instead of on all of the process.

fx replaces `nn.Module.__call__` and `__getattr__` while it traces, for every network in every
thread. Here each module of the traced one gets what stands in for its own call and its own
tensors, and gives it back. What remains are functions that libraries have asked fx to wrap
(`torch.fx.wrap`), those of `math`, and `autograd.Function.apply`: their wrappers hand on whatever
is no proxy, in any thread.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._functorch import utils as functorch
from torch.fx import _symbolic_trace as _fx

from attnsurgeon.forwards.alignment import Untraceable
from attnsurgeon.forwards.retype import RESOLVING, is_generated
from attnsurgeon.recording.calls import answered

AN_AUTOGRAD_FUNCTION = "its forward calls an autograd function, with its own gradient"


@contextlib.contextmanager
def _no_autograd_function_applied() -> Iterator[None]:
    """Ends a trace that comes to an autograd function.

    Not only would the trace run through it and lose its gradient: it is C that is given the proxy,
    takes what says that it is a tensor for one, and reads its memory.
    """
    kind: Any = torch.autograd.Function
    own = vars(kind).get("apply")  # of C in newer versions of torch, and then inherited

    def refuse(*values: Any) -> None:
        if any(issubclass(type(value), fx.Proxy) for value in values):
            raise Untraceable(AN_AUTOGRAD_FUNCTION)

    def apply(cls: Any, *args: Any, **kwargs: Any) -> Any:
        refuse(*args, *kwargs.values())
        if own is not None:
            return own.__get__(None, cls)(*args, **kwargs)
        return super(kind, cls).apply(*args, **kwargs)

    # Before it was of C, an `apply` that was kept under a name went through this function.
    utils: Any = functorch
    unwrap = getattr(utils, "unwrap_dead_wrappers", None)
    if unwrap is not None:
        utils.unwrap_dead_wrappers = lambda args: refuse(*args) or unwrap(args)
    kind.apply = classmethod(apply)
    try:
        yield
    finally:
        if unwrap is not None:
            utils.unwrap_dead_wrappers = unwrap
        if own is not None:
            kind.apply = own
        else:
            del kind.apply


class PrivateTracer(fx.Tracer):
    """Traces one module; only that object and those inside it are touched."""

    _watched: Sequence[tuple[dict[str, Any], str, fx.Proxy]] = ()

    def trace(self, root: nn.Module, concrete_args: None = None) -> fx.Graph:  # type: ignore[override]
        """Returns the graph of the forward of `root`."""
        forward = type(root).forward
        self.root = root
        self.root_module_name = root._get_name()
        self.submodule_paths = {module: path for path, module in root.named_modules()}
        self.graph = fx.Graph(tracer_cls=type(self))
        self.tensor_attrs = dict(_constants(root))
        scope = forward.__globals__
        generated = is_generated(type(root))
        fn, args = self.create_args_for_root(forward, True, concrete_args)
        with (
            _as_traced(),
            self._wrapped(scope, generated),
            self._children_watched(),
            self._tensors_watched(),
        ):
            self.create_node("output", "output", (self.create_arg(fn(*args)),), {})
        self.submodule_paths = None
        return self.graph

    @contextlib.contextmanager
    def _wrapped(self, scope: dict[str, Any], generated: bool) -> Iterator[None]:
        with RESOLVING, _fx._new_patcher() as patcher:
            own = scope.items() if generated else ()
            functions = {n: f for n, f in own if isinstance(f, FunctionType)}
            _fx._patch_wrapped_functions(patcher)
            for name, function in functions.items():  # the record has what they do inside
                patcher.patch(scope, name, function)
            for names, name, conversion in self.standing_in():
                patcher.patch(names, name, conversion)
            for names in (scope, *(vars(module) for module in self._autowrap_search)):
                _fx._autowrap_check(patcher, names, self._autowrap_function_ids)
            with _no_autograd_function_applied():
                yield

    def standing_in(self) -> Iterable[tuple[dict[str, Any], str, type]]:
        """What is to be found under a name, in the dict of a module, while this traces."""
        return ()

    def _children_watched(self) -> contextlib.AbstractContextManager[None]:
        """Tells `call_module` of the calls of these modules."""

        def watched(module: nn.Module) -> Callable[..., Any]:
            return lambda *args, **kwargs: self.call_module(module, module._call_impl, args, kwargs)

        return answered(self.root.modules(), watched)

    @contextlib.contextmanager
    def _tensors_watched(self) -> Iterator[None]:
        """Lets each parameter and buffer be met as a node, which is read where it is first used."""
        nodes: dict[int, fx.Proxy] = {}
        for name, tensor in (*self.root.named_parameters(), *self.root.named_buffers()):
            nodes[id(tensor)] = self.create_proxy("get_attr", name, (), {})
        self._watched = put = [
            (vars(module), name, nodes[id(tensor)])
            for module in self.root.modules()
            for name, tensor in (*module._parameters.items(), *module._buffers.items())
            if id(tensor) in nodes and name not in vars(module)
        ]
        for held, name, proxy in put:
            held[name] = proxy
        try:
            yield
        finally:
            self._watched = []
            for held, name, proxy in put:
                if held.get(name) is proxy:
                    del held[name]
            order = {node: place for place, node in enumerate(self.graph.nodes)}
            for proxy in nodes.values():
                if proxy.node.users:
                    min(proxy.node.users, key=order.__getitem__).prepend(proxy.node)
                else:
                    self.graph.erase_node(proxy.node)

    @contextlib.contextmanager
    def unwatched(self, module: nn.Module) -> Iterator[None]:
        """Lets a module inside the traced one run as itself."""
        inner = list(module.modules())
        own = {id(vars(m)) for m in inner}
        apart = [(held, name, p) for held, name, p in self._watched if id(held) in own]
        calls = [(vars(m), vars(m).pop("_compiled_call_impl")) for m in inner]
        for held, name, _ in apart:
            del held[name]
        try:
            yield
        finally:
            for held, call in calls:
                held["_compiled_call_impl"] = call
            for held, name, proxy in apart:
                held[name] = proxy


def _constants(module: nn.Module, prefix: str = "") -> Iterator[tuple[Any, str]]:
    """The tensors in plain attributes, and where they are."""
    for name, value in vars(module).items():
        if isinstance(value, (Tensor, torch.ScriptObject)):
            yield value, f"{prefix}{name}"
    for name, child in module.named_children():
        yield from _constants(child, f"{prefix}{name}.")


@contextlib.contextmanager
def _as_traced() -> Iterator[None]:
    """Lets a compiled function in a forward see that it is traced; a flag of this thread."""
    get, put = (getattr(_fx, f"_{verb}_is_fx_tracing", None) for verb in ("get", "set"))
    if get is None or put is None:  # torch before it was one of the thread
        yield
        return
    before = get()
    put(True)
    try:
        yield
    finally:
        put(before)
