"""Plan -> network: retype blocks and hang hooks; the only file that changes a module."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from attnsurgeon.attention.registry import create_attention
from attnsurgeon.errors import ModelError
from attnsurgeon.record import MARK, Call
from attnsurgeon.retype import Reference, flat_call, form_of, original_class, retyped, source_of
from attnsurgeon.shallow import ShallowGraph

if TYPE_CHECKING:
    from attnsurgeon.planning import Cut, Plan

HISTORY = "_attnsurgeon_history"  # attribute of the network: the records of its operations
_TO_NCHW = {"NHWC": (0, 3, 1, 2), "NDHWC": (0, 4, 1, 2, 3)}
_FROM_NCHW = {"NHWC": (0, 2, 3, 1), "NDHWC": (0, 2, 3, 4, 1)}


@dataclass(frozen=True)
class Mark:
    """What an inserted module remembers of its cut; a plain attribute, in no state dict."""

    site: str
    attn: str
    technique: str


def through(attention: nn.Module, x: Tensor, layout: str) -> Tensor:
    """Runs an attention, which expects channels on axis 1, on a value of any layout."""
    if layout in _TO_NCHW:
        return attention(x.permute(_TO_NCHW[layout])).permute(_FROM_NCHW[layout])
    if layout == "NLC":
        return attention(x.transpose(1, 2).unsqueeze(3)).squeeze(3).transpose(1, 2)
    if layout == "NCL":
        return attention(x.unsqueeze(3)).squeeze(3)
    return attention(x)


@dataclass
class OutputHook:
    """Forward hook: hands the module's output through its child `name`."""

    name: str
    layout: str

    def __call__(self, module: nn.Module, args: Any, output: Tensor) -> Tensor:
        """Returns the output after attention."""
        return through(module.get_submodule(self.name), output, self.layout)


@dataclass
class InputHook:
    """Forward pre-hook: hands the module's first input through its child `name`."""

    name: str
    layout: str

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Returns the inputs with attention on the first."""
        return through(module.get_submodule(self.name), args[0], self.layout), *args[1:]


def splice(model: nn.Module, plan: Plan) -> None:
    """Carries out a plan on `model`, in place.

    Raises:
        ModelError: the network is not the one that was planned for.
    """
    hosts: dict[str, list[Cut]] = {}
    for cut in plan.cuts:
        hosts.setdefault(cut.place.host, []).append(cut)
    modules = {path: _host(model, path, plan) for path in hosts}
    for path, cuts in hosts.items():
        _check_names(modules[path], path, cuts)
    for path, cuts in hosts.items():
        host = modules[path]
        for cut in cuts:
            # Not add_module(): it refuses a name that the class has any answer for.
            host._modules[cut.name] = _built(cut, _where(host, model), host.training)
        rewritten = [c for c in cuts if c.place.technique == "retype"]
        if rewritten:
            call = plan.survey.traced.calls[path][0]
            _rewrite(host, call, plan.graph(path), rewritten)
        for cut in cuts:
            if cut.place.technique == "output-hook":
                host.register_forward_hook(OutputHook(cut.name, cut.layout))
            elif cut.place.technique == "input-hook":
                host.register_forward_pre_hook(InputHook(cut.name, cut.layout))
    model.__dict__[HISTORY] = (*history(model), plan.record())


def undo(model: nn.Module, plan: Plan) -> nn.Module:
    """Takes one plan's attention out again, in place; returns the network it was planned for.

    Attention of earlier operations stays. Plans are undone in the reverse order of their making.
    """
    twin = plan.survey.traced.twin
    for cut in plan.cuts:
        host = model.get_submodule(cut.place.host)
        host.__class__ = type(twin.get_submodule(cut.place.host))
        for hooks in (host._forward_hooks, host._forward_pre_hooks):
            for key, hook in list(hooks.items()):
                if isinstance(hook, (OutputHook, InputHook)) and hook.name == cut.name:
                    del hooks[key]
        host._modules.pop(cut.name, None)
    earlier = history(model)[:-1]
    model.__dict__.pop(HISTORY, None)
    if earlier:
        model.__dict__[HISTORY] = earlier
    return model


def remove(model: nn.Module) -> None:
    """Takes every inserted attention out again: the original network, in place."""
    for module in list(model.modules()):
        if original_class(module) is not type(module):
            module.__class__ = original_class(module)
        for hooks in (module._forward_hooks, module._forward_pre_hooks):
            for key in [k for k, h in hooks.items() if isinstance(h, (OutputHook, InputHook))]:
                del hooks[key]
        for name, child in list(module._modules.items()):
            if child is not None and child.__dict__.get(MARK) is not None:
                del module._modules[name]
        module.__dict__.pop(HISTORY, None)  # of the network, wherever it stands now


def history(model: nn.Module) -> tuple[dict[str, Any], ...]:
    """The records (`Plan.record`) of the operations on a network, oldest first."""
    return model.__dict__.get(HISTORY, ())


def inserted(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yields path and module of every attention that surgery put into `model`."""
    for path, module in model.named_modules():
        if module.__dict__.get(MARK) is not None:
            yield path, module


def _host(model: nn.Module, path: str, plan: Plan) -> nn.Module:
    try:
        host = model.get_submodule(path)
    except AttributeError:
        host = None
    planned = plan.survey.traced.twin.get_submodule(path)
    if host is None or type(host) is not type(planned):
        found = "nothing" if host is None else f"a {type(host).__name__}"
        raise ModelError(
            f"the plan cuts {path} ({type(planned).__name__}), but this network has {found} there",
            "make the plan on the network that is operated",
        )
    return host


def _check_names(host: nn.Module, path: str, cuts: Sequence[Cut]) -> None:
    for cut in cuts:
        if cut.name in host._modules:
            raise ModelError(
                f"the plan adds {cut.name!r} to {path or 'the network'}, which has one already",
                "a plan is carried out once; plan again on the operated network to add more",
            )


def _where(host: nn.Module, model: nn.Module) -> Tensor:
    """A floating-point tensor that shows the device and dtype the attention belongs on."""
    for module in (host, model):
        for tensor in (*module.parameters(), *module.buffers()):
            if tensor.is_floating_point():
                return tensor
    return torch.empty(0)


def _built(cut: Cut, like: Tensor, training: bool) -> nn.Module:
    with torch.device(like.device):
        module = create_attention(
            cut.attn, cut.channels, rank=cut.rank, init=cut.init, **cut.attn_args
        )
    module = module.to(like.dtype).train(training)
    setattr(module, MARK, Mark(cut.site.path, cut.attn, cut.place.technique))
    return module


def _rewrite(host: nn.Module, call: Call, graph: ShallowGraph, cuts: Sequence[Cut]) -> None:
    """Gives the host generated code in which the attentions are called."""
    evaluate = _with_attention(graph.evaluate, cuts)
    train = _with_attention(graph.train, cuts) if graph.train is not None else None
    sources: list[str] = []
    references: set[Reference] = set()

    def emit(made: fx.Graph, name: str) -> None:
        source, used = source_of(made, name)
        sources.append(source)
        references.update(used)

    if train is None and not graph.structured:
        emit(evaluate, "forward")
    else:
        emit(evaluate, "_attnsurgeon_eval")
        emit(train or evaluate, "_attnsurgeon_train")
        sources.append(_dispatcher(evaluate, sources[0], call if graph.structured else None))
        if graph.structured:
            references.add(("flat_call", flat_call.__module__, "flat_call"))
    host.__class__ = original_class(host)
    retyped(host, tuple(sources), tuple(sorted(references)))


def _dispatcher(graph: fx.Graph, source: str, structured: Call | None) -> str:
    """The forward that picks the code of the mode the module is in."""
    pick = "(self._attnsurgeon_train if self.training else self._attnsurgeon_eval)"
    if structured is not None:
        form = form_of(*pytree.tree_flatten((structured.args, structured.kwargs)))
        return (
            "def forward(self, *args, **kwargs):\n"
            f"    return flat_call({pick}, {form!r}, args, kwargs)\n"
        )
    header = source[source.index("(") : source.index("\n")]
    names = [str(node.target) for node in graph.nodes if node.op == "placeholder"]
    return f"def forward{header}\n    return {pick}({', '.join(names)})\n"


def _with_attention(graph: fx.Graph, cuts: Sequence[Cut]) -> fx.Graph:
    """Returns a copy of the graph with a call of each cut's module at its place."""
    copy = fx.Graph()
    mapping: dict[fx.Node, fx.Node] = {}
    output = copy.graph_copy(graph, mapping)
    copy.output(output)
    nodes = {old.meta["key"]: new for old, new in mapping.items() if "key" in old.meta}
    tails: dict[fx.Node, fx.Node] = {}
    for cut in cuts:
        assert cut.place.key is not None
        target = nodes[cut.place.key]
        if cut.place.before:
            source = next(iter(target.all_input_nodes))
            made = _insert(copy, target, source, cut, before=True)
            target.replace_input_with(source, made)
        else:
            tail = tails.get(target, target)
            users = list(tail.users)
            made = _insert(copy, tail, tail, cut, before=False)
            tail.replace_all_uses_with(made, delete_user_cb=functools.partial(_among, users))
            tails[target] = made
    copy.lint()
    return copy


def _among(users: list[fx.Node], user: fx.Node) -> bool:
    return user in users


def _insert(graph: fx.Graph, at: fx.Node, value: fx.Node, cut: Cut, before: bool) -> fx.Node:
    """Adds `through(self.attn, value)` to the graph, spelled out as plain nodes."""
    with graph.inserting_before(at) if before else graph.inserting_after(at):
        first = graph.call_module(cut.name, (value,))
    if cut.layout in ("NCHW", "NCDHW"):
        return first
    steps: list[tuple[str, tuple[Any, ...]]]
    if cut.layout in _TO_NCHW:
        ahead, back = [("permute", _TO_NCHW[cut.layout])], [("permute", _FROM_NCHW[cut.layout])]
    elif cut.layout == "NLC":
        ahead, back = (
            [("transpose", (1, 2)), ("unsqueeze", (3,))],
            [("squeeze", (3,)), ("transpose", (1, 2))],
        )
    else:
        ahead, back = [("unsqueeze", (3,))], [("squeeze", (3,))]
    steps = ahead
    for name, args in steps:
        with graph.inserting_before(first):
            value = graph.call_method(name, (value, *args))
    first.args = (value,)
    last = first
    for name, args in back:
        with graph.inserting_after(last):
            last = graph.call_method(name, (last, *args))
    return last
