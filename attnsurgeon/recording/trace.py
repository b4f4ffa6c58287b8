"""nn.Module + example input -> Traced: one forward, written down as one torch.fx.Graph.

The forward runs on a twin of the network whose tensors are on the meta device, so it needs
neither weights nor memory and the user's modules are never touched. Every torch function called
becomes a node; every module called becomes a `Call`, which knows the events of its own forward
in order. A network whose forward looks at values falls back to a small real run on the CPU.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.overrides import TorchFunctionMode

from attnsurgeon.errors import ModelError
from attnsurgeon.recording.caches import caches_as_they_were
from attnsurgeon.recording.calls import answered
from attnsurgeon.recording.garbage import uncollected
from attnsurgeon.recording.inputs import Given, InputForm, Inputs
from attnsurgeon.recording.randomness import settled
from attnsurgeon.recording.record import (
    MARK,
    Call,
    Event,
    Traced,
    map_tensors,
    name_of_call,
    operation_name,
    tensors_in,
)
from attnsurgeon.recording.shape_only import shape_only
from attnsurgeon.recording.twin import full_twin, meta_twin

MOST_OPERATIONS = 100_000  # of one forward; the longest known networks run some 10,000


class _Recorder(TorchFunctionMode):
    """Writes down each torch function and each module call of one forward."""

    def __init__(self, model: nn.Module, on_meta: bool) -> None:
        super().__init__()
        self.on_meta = on_meta
        self.graph = fx.Graph()
        self.calls: dict[str, list[Call]] = {}
        self.paths = {id(m): p for p, m in model.named_modules()}
        self.named = {id(t): n for n, t in model.named_parameters(remove_duplicate=False)}
        self.named |= {id(t): n for n, t in model.named_buffers(remove_duplicate=False)}
        self.named = _plain_tensors(model) | self.named
        self.nodes: dict[int, fx.Node] = {}
        self.kept: list[Tensor] = []  # ids must not be used again while we look values up by them
        self.count = 0
        self.names: Counter[str] = Counter()
        self.ordinals: Counter[tuple[int, str]] = Counter()  # of a call, how many of one name
        self.stack: list[Call] = []
        self.root: Call | None = None
        self.closed = False  # an inserted attention is running: it is one operation
        self.caught: Exception | None = None  # raised in the forward, and not by it

    def bind(self, tensor: Tensor, node: fx.Node) -> fx.Node:
        """Lets `node` stand for the present value of `tensor`."""
        self.nodes[id(tensor)] = node
        self.kept.append(tensor)
        node.meta.update(shape=tuple(tensor.shape), dtype=tensor.dtype, memory=_memory_of(tensor))
        return node

    def new_node(self, op: str, target: Any, args: tuple, kwargs: dict, name: str) -> fx.Node:
        node = self.graph.create_node(op, target, args, kwargs, name=name)
        data = op == "placeholder" or any(n.meta["data"] for n in node.all_input_nodes)
        call = self.stack[-1] if self.stack else None
        node.meta.update(call=call, order=self.count, data=data)
        self.count += 1
        return node

    def node_of(self, tensor: Tensor) -> fx.Node:
        node = self.nodes.get(id(tensor))
        if node is not None:
            return node
        name = self.named.get(id(tensor))
        if name is not None:
            return self.bind(tensor, self.new_node("get_attr", name, (), {}, "param"))
        if self.stack:  # made where no torch function is seen (a custom autograd function):
            inputs = self.stack[-1].inputs  # it may depend on all that this forward was given
            return self.bind(tensor, self.new_node("call_function", unseen, inputs, {}, "unseen"))
        return self.bind(tensor, self.new_node("placeholder", "constant", (), {}, "constant"))

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if self.closed:
            return func(*args, **kwargs)
        given = [*tensors_in(args), *tensors_in(kwargs)]
        versions = [_version(t) for t in given]
        inputs = [self.node_of(t) for t in given] if self.stack else []
        out = shape_only(func, args, kwargs) if self.on_meta else None
        if out is None:
            try:
                out = func(*args, **kwargs)
            except Exception as error:
                self.caught = error
                raise
        if self.stack:
            changed = [t for t, v in zip(given, versions, strict=True) if _version(t) != v]
            self.note(func, args, kwargs, list(tensors_in(out)), changed, len(inputs))
        return out

    def note(self, func, args, kwargs, results, changed, count) -> None:
        """Adds the node(s) of one executed function; `changed` were modified in place."""
        if not results and not changed:
            return  # a question about a tensor (its size, its device), not a value
        name = operation_name(func)
        fresh = [t for t in {id(t): t for t in (*results, *changed)}.values()
                 if id(t) not in self.nodes or any(t is c for c in changed)]  # fmt: skip
        call = self.stack[-1]
        if self.count > MOST_OPERATIONS:
            self.caught = ModelError(
                f"the network's forward runs more than {MOST_OPERATIONS:,} operations,"
                f" most of them in {call.name or type(call.module).__name__}: one for each value?",
                "take the part of the network that works on whole maps",
            )
            raise self.caught
        ordinal = self.ordinals[id(call), name]
        self.ordinals[id(call), name] += 1
        if not fresh:
            same = tuple(self.node_of(t) for t in results)
            call.events.append(Event(name, same, alias=True, ordinal=ordinal))
            return
        node_args = map_tensors(args, self.node_of)
        node_kwargs = map_tensors(kwargs, self.node_of)
        before = {id(t): self.node_of(t) for t in changed}
        node = self.new_node("call_function", func, node_args, node_kwargs, name)
        node.meta["name"] = name
        if len(fresh) == 1 and len(results) <= 1:
            nodes: tuple[fx.Node, ...] = (self.bind(fresh[0], node),)
        else:
            node.meta.update(shape=None, dtype=None)
            nodes = tuple(self.bind(t, self.part(node, i)) for i, t in enumerate(fresh))
        event = Event(name, nodes, ordinal=ordinal)
        node.meta["event"] = event
        for made, tensor in zip(nodes, fresh, strict=True):
            made.meta["event"] = event
            if id(tensor) in before:
                made.meta["over"] = before[id(tensor)]
        call.events.append(event)

    def part(self, node: fx.Node, index: int) -> fx.Node:
        """Returns a new node for one of several results."""
        part = self.new_node("call_function", _part, (node, index), {}, "part")
        part.meta["name"] = "part"
        return part

    def enter(self, module: nn.Module, path: str, args: tuple, kwargs: dict) -> Call:
        parent = self.stack[-1] if self.stack else None
        earlier = self.calls.setdefault(path, [])
        call = Call(path, module, len(earlier), parent, args, kwargs, self.count)
        call.name = name_of_call(call, self.names)
        call.inputs = tuple(self.node_of(t) for t in tensors_in((args, kwargs)))
        earlier.append(call)
        if parent is None:
            self.root = call
        else:
            parent.events.append(call)
        self.stack.append(call)
        return call

    def leave(self, call: Call, output: Any) -> None:
        call.output = output
        call.outputs = tuple(self.node_of(t) for t in tensors_in(output))
        call.inputs_after = tuple(self.node_of(t) for t in tensors_in((call.args, call.kwargs)))
        call.end = self.count
        self.stack.pop()

    def abandon(self, call: Call, error: Exception) -> None:
        """Ends a call that raised; a caller may catch it and go on."""
        call.end = self.count
        self.caught = error
        del self.stack[self.stack.index(call) :]


_PLAIN = frozenset([bool, int, float, str, type(None)])


def _plain_tensors(model: nn.Module) -> dict[int, str]:
    """The tensors in plain attributes: constants too, though no buffers."""
    return {
        id(tensor): f"{path}.{name}" if path else name
        for path, module in model.named_modules()
        for name, value in vars(module).items()
        if type(value) not in _PLAIN and name not in ("_parameters", "_buffers", "_modules")
        for tensor in tensors_in(value)
    }


def _memory_of(tensor: Tensor) -> int | None:
    """The same number for a tensor and its views, on meta too; None without plain memory."""
    if tensor.layout is not torch.strided:
        return None
    with torch._C.DisableTorchFunction():
        return tensor.untyped_storage()._cdata


def _version(tensor: Tensor) -> int:
    """Counts the changes in place; made in inference mode, a tensor does not count them."""
    return 0 if tensor.is_inference() else tensor._version


def unseen(*inputs):
    """Stands in the graph for a value made where no torch function could be seen."""
    raise NotImplementedError("an analysis graph is not run")


def attention(*inputs):
    """Stands in the graph for an inserted module, whose inside is nobody's site."""
    raise NotImplementedError("an analysis graph is not run")


def _part(values, index):
    """Stands in the graph for one of several results of an operation."""
    raise NotImplementedError("an analysis graph is not run")


def _module_calls(recorder: _Recorder, twin: nn.Module) -> AbstractContextManager[None]:
    """Tells `recorder` of every call of the modules of a twin."""

    def watched(module: nn.Module) -> Callable[..., Any]:
        path = recorder.paths[id(module)]

        def call(*args: Any, **kwargs: Any) -> Any:
            if recorder.closed:
                return module._call_impl(*args, **kwargs)
            entered = recorder.enter(module, path, args, kwargs)
            recorder.closed = module.__dict__.get(MARK) is not None
            try:
                output = module._call_impl(*args, **kwargs)
            except Exception as error:
                recorder.closed = False
                recorder.abandon(entered, error)
                raise
            if recorder.closed:
                recorder.closed = False
                recorder.note(attention, args, kwargs, list(tensors_in(output)), [], 0)
            recorder.leave(entered, output)
            return output

        return call

    return answered(twin.modules(), watched)


def _record(twin: nn.Module, form: InputForm, example: Inputs, device: str) -> Traced:
    return settled(lambda: _recorded(twin, form, example, device))


def _recorded(twin: nn.Module, form: InputForm, example: Inputs, device: str) -> Traced:
    recorder = _Recorder(twin, device == "meta")
    for tensor in tensors_in(example):
        recorder.bind(tensor, recorder.new_node("placeholder", "x", (), {}, "x"))
    place = torch.device("meta") if device == "meta" else contextlib.nullcontext()
    still = torch.inference_mode(False)  # its tensors would not count their changes in place
    with (
        caches_as_they_were(twin),
        still,
        torch.no_grad(),
        place,
        _module_calls(recorder, twin),
        recorder,
    ):
        example.feed(twin)
    if recorder.caught is not None and device == "meta":
        raise recorder.caught  # with values, the forward may not have had to catch anything
    assert recorder.root is not None
    return Traced(twin, recorder.graph, recorder.root, recorder.calls, form, example, device)


@uncollected()
def trace(model: nn.Module, example: Given) -> Traced:
    """Records one forward of `model` in eval mode, on meta where that works, without touching it.

    Args:
        model: the network; only copies of it are run.
        example: the positional inputs, tensors on any device (only their shapes matter, and of
            whole numbers the range), or the form of any input.

    Raises:
        ModelError: the network cannot be run on this input.
    """
    form = InputForm.of_inputs(example)
    on_meta = map_tensors(form.on_meta(), lambda t: as_taken(t, model))
    why = ""
    failed: BaseException | None = None
    for constants in (False, True) if _plain_tensors(model) else (False,):
        twin = meta_twin(model, constants=constants)
        twin.eval()  # a statement: who overrides train() may forget to return self
        try:
            return _record(twin, form, on_meta, "meta")
        except ModelError:
            raise  # a judgement of ours holds on every device
        except (Exception, SystemExit) as error:  # a stranger's forward; the CPU run decides
            failed = failed or error
            why = why or _in_words(error)
    if any(t.is_meta for t in model.parameters()):
        what = f"the network cannot be run on the meta device: {why}"
        raise ModelError(what, SIZE_HINT) from failed
    real = full_twin(model).cpu()
    real.eval()
    generator = torch.Generator().manual_seed(0)
    inputs = map_tensors(form.drawn(generator), lambda t: as_taken(t, model))
    try:
        traced = _record(real, form, inputs, "cpu")
    except ModelError:
        raise
    except (Exception, SystemExit) as error:  # a stranger's forward may raise anything
        text = _in_words(error)
        shapes = ", ".join(str(tuple(t.shape)) for t in tensors_in(inputs))
        raise ModelError(
            f"the network cannot be run on an input of {shapes}: {text}", SIZE_HINT
        ) from error
    traced.why_real = why
    return traced


@uncollected()
def run_again(twin: nn.Module, traced: Traced) -> Traced:
    """Records a forward of a changed copy of a recorded network, on the same input."""
    return _record(twin, traced.form, traced.example, traced.device)


def _in_words(error: BaseException) -> str:
    if isinstance(error, SystemExit):
        return f"its code calls sys.exit({error.code!r})"
    return f"{type(error).__name__}: {error}".split("\n")[0]


def as_taken(tensor: Tensor, model: nn.Module) -> Tensor:
    """Returns an input in the floating-point type that the network's weights have."""
    weights = (p.dtype for p in model.parameters() if p.is_floating_point() and p.dim() > 1)
    return tensor.to(next(weights, tensor.dtype)) if tensor.is_floating_point() else tensor


SIZE_HINT = (
    "name the size it takes, channels first: input_size=(3, 224, 224); of several inputs each: "
    "input_size=((3, 64, 64), (1, 64, 64))"
)
