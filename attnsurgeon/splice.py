"""Plan -> network: retype blocks and hang hooks; the only file that changes a module."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from attnsurgeon.attention.heads.tapped import InputTap, OutputTap, Tapped
from attnsurgeon.attention.registry import lookup
from attnsurgeon.attention.weights.each import convolve_each
from attnsurgeon.configs import write_config
from attnsurgeon.errors import ModelError
from attnsurgeon.parts import Parts
from attnsurgeon.passage import InputHook, OutputHook, call_through, through
from attnsurgeon.record import MARK, Call
from attnsurgeon.retype import Reference, flat_call, form_of, original_class, retyped, source_of
from attnsurgeon.shallow import ShallowGraph, name_in

if TYPE_CHECKING:
    from attnsurgeon.planning import Cut, Plan

HISTORY = "_attnsurgeon_history"  # attribute of the network: the records of its operations
Removed = dict[str, dict[str, dict[str, Any]]]  # path -> "_parameters", "_buffers" -> by name
_STRIPPED = "_attnsurgeon_stripped"  # attribute of a module whose parameters were taken away
_PASS_ON = (
    "def forward(self, input):\n    return input\n",
    # A batch norm would add a counter to a state dict in which it finds none.
    "def _load_from_state_dict(self, state_dict, prefix, *args):\n    pass\n",
)


@dataclass(frozen=True)
class Mark:
    """What an inserted module remembers of its cut; a plain attribute, in no state dict."""

    site: str
    attn: str
    technique: str


def splice(model: nn.Module, plan: Plan) -> Removed:
    """Carries out a plan on `model`, in place.

    Returns:
        The parameters and buffers that the plan takes away; `undo` puts them back.

    Raises:
        ModelError: the network is not the one that was planned for.
    """
    hosts: dict[str, list[Cut]] = {}
    for cut in plan.cuts:
        hosts.setdefault(cut.place.host, []).append(cut)
    paths = {*hosts, *(path for cut in plan.cuts for path in cut.removes)}
    modules = {path: _host(model, path, plan) for path in paths}
    for path, cuts in hosts.items():
        _check_names(modules[path], path, cuts)
    parts = Parts()
    for cut in plan.cuts:
        host = modules[cut.place.host]
        replaced = host if cut.place.technique == "takeover" else None
        part = parts.build(cut, _where(host, model), replaced).train(host.training)
        setattr(part, MARK, Mark(cut.site.path, cut.attn, cut.place.technique))
        # Not add_module(): it refuses a name that the class has any answer for.
        host._modules[cut.name] = part
        if cut.place.technique == "takeover":
            _take_over(host, cut)
    for path, cuts in hosts.items():
        host = modules[path]
        rewritten = [c for c in cuts if c.place.technique == "retype"]
        if rewritten:
            call = plan.survey.traced.calls[path][0]
            _rewrite(host, call, plan.graph(path), rewritten)
        for cut in cuts:
            if cut.place.technique == "output-hook":
                host.register_forward_hook(OutputHook(cut.name, cut.way))
                if not plan.changed_by_hooks(path):
                    _let_pass(host._forward_hooks)
            elif cut.place.technique == "input-hook":
                host.register_forward_pre_hook(InputHook(cut.name, cut.way))
                _let_pass(host._forward_pre_hooks)
    for cut in plan.cuts:  # last, so that a tap sees what attention made of the value
        parts.tap(model, cut)
    removed = {p: _strip(modules[p]) for cut in plan.cuts for p in cut.removes}
    for cut in plan.cuts:
        for path in cut.removes:
            if path != cut.place.host:
                retyped(modules[path], _PASS_ON, ())
    remember(model, (*history(model), plan.record()))
    return removed


def undo(model: nn.Module, plan: Plan, removed: Removed | None = None) -> nn.Module:
    """Takes one plan's attention out again, in place; returns the network it was planned for.

    Attention of earlier operations stays. Plans are undone in the reverse order of their making.

    Args:
        model: the operated network.
        plan: what was carried out on it.
        removed: what `splice` returned; without it, what is gone comes back with random values.
    """
    twin = plan.survey.traced.twin
    for cut in plan.cuts:
        for path in (cut.place.host, *cut.removes):
            module = model.get_submodule(path)
            module.__class__ = type(twin.get_submodule(path))
            _put_back(module, None if removed is None else removed.get(path))
        host = model.get_submodule(cut.place.host)
        _drop_hooks(host, lambda hook, name=cut.name: hook.name == name)
        _drop_taps(model, host._modules.pop(cut.name, None))
    remember(model, history(model)[:-1])
    return model


def remove(model: nn.Module, *, refill: bool = False) -> None:
    """Takes every inserted attention out again: the original network, in place.

    Args:
        model: an operated network.
        refill: give what attention under init="paper" took the place of random values.

    Raises:
        ModelError: something was replaced and its weights are gone, and not `refill`.
    """
    gone = [path for path, m in model.named_modules() if _STRIPPED in m.__dict__]
    if gone and not refill:
        raise ModelError(
            f"{gone[0]} was replaced under init='paper', so its weights are gone",
            "insert into a copy and keep the original, or use init='identity'",
        )
    for module in list(model.modules()):
        if original_class(module) is not type(module):
            module.__class__ = original_class(module)
        _put_back(module, None)
        _drop_hooks(module, lambda hook: True)
        for name, child in list(module._modules.items()):
            if child is not None and child.__dict__.get(MARK) is not None:
                del module._modules[name]
        if history(module):  # of the network, wherever it stands now
            remember(module, ())
        for hooks in (module._forward_hooks, module._forward_pre_hooks):
            for key in [k for k, h in hooks.items() if isinstance(h, (OutputTap, InputTap))]:
                del hooks[key]


def _let_pass(hooks: dict[int, Any]) -> None:
    """Puts the hooks of others behind ours: who collects a value there is to see the attention."""
    others = {key: h for key, h in hooks.items() if not isinstance(h, (OutputHook, InputHook))}
    for key in others:
        del hooks[key]
    hooks.update(others)


def _drop_hooks(module: nn.Module, ours: Callable[[Any], bool]) -> None:
    for hooks in (module._forward_hooks, module._forward_pre_hooks):
        for key, hook in list(hooks.items()):
            if isinstance(hook, (OutputHook, InputHook)) and ours(hook):
                del hooks[key]


def _drop_taps(model: nn.Module, part: nn.Module | None) -> None:
    if not isinstance(part, Tapped):
        return
    for module in model.modules():
        for hooks in (module._forward_hooks, module._forward_pre_hooks):
            for key, hook in list(hooks.items()):
                if isinstance(hook, (OutputTap, InputTap)) and hook.mailbox is part.mailbox:
                    del hooks[key]


def _take_over(host: nn.Module, cut: Cut) -> None:
    """Gives the host a forward that hands its input, or its old result, to the attention."""
    old = f"type(self)._surgeon_base.forward(self, input{'.clone()' if cut.clones else ''})"
    if cut.taps:
        made = f"self.{cut.name}({old if cut.keeps_old else 'input'})"
        references: tuple[Reference, ...] = ()
    else:
        values = f"input, {old}" if cut.keeps_old else "input"
        made = f"through(self.{cut.name}, {cut.way!r}, {values})"
        references = (("through", through.__module__, "through"),)
    retyped(host, (f"def forward(self, input):\n    return {made}\n",), references)


def _strip(module: nn.Module) -> dict[str, dict[str, Any]]:
    """Takes a module's own parameters and buffers away, and leaves a note of their form."""
    held = {"_parameters": dict(module._parameters), "_buffers": dict(module._buffers)}
    module.__dict__[_STRIPPED] = tuple(
        (kind, name, tuple(tensor.shape), tensor.dtype)
        for kind, tensors in held.items()
        for name, tensor in tensors.items()
        if tensor is not None
    )
    for kind, tensors in held.items():
        getattr(module, kind).update(dict.fromkeys(tensors))
    return held


def _put_back(module: nn.Module, held: dict[str, dict[str, Any]] | None) -> None:
    """Gives a stripped module its parameters and buffers again, or random ones of their form."""
    form = module.__dict__.pop(_STRIPPED, ())
    if held is not None:
        for kind, tensors in held.items():
            getattr(module, kind).update(tensors)
        return
    for kind, name, shape, dtype in form:
        # Small weights, so that a deep network of them stays finite; scales and variances near 1.
        random = 0.02 * torch.randn(shape) if len(shape) > 1 else 0.5 + torch.rand(shape)
        tensor = random.to(dtype) if dtype.is_floating_point else torch.zeros(shape, dtype=dtype)
        getattr(module, kind)[name] = nn.Parameter(tensor) if kind == "_parameters" else tensor


def history(model: nn.Module) -> tuple[dict[str, Any], ...]:
    """The records (`Plan.record`) of the operations on a network, oldest first."""
    return model.__dict__.get(HISTORY, ())


def forget(model: nn.Module, paths: set[str]) -> None:
    """Strikes cuts from the history of a network, by the paths of their modules."""
    kept = [
        {**record, "sites": [s for s in record["sites"] if s["module_path"] not in paths]}
        for record in history(model)
    ]
    remember(model, [record for record in kept if record["sites"]])


def remember(model: nn.Module, records: Sequence[Mapping[str, Any]]) -> None:
    """Makes these records the history of a network, and of the config it is saved with."""
    model.__dict__.pop(HISTORY, None)
    if records:
        model.__dict__[HISTORY] = tuple(records)
    write_config(model, records)


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
    nodes = {name_in(old): new for old, new in mapping.items() if name_in(old) is not None}
    tails: dict[Any, fx.Node] = {}  # operation -> what stands for its result by now
    for cut in cuts:
        place = cut.place
        assert place.key is not None
        target = nodes[place.key]
        tail = tails.get(place.key, target)
        others = [tails.get(key, nodes[key]) for key in place.others]
        if place.edit == "excite":
            _excite(copy, target, cut)
        elif place.edit == "fuse":
            terms = list(target.all_input_nodes)
            first, second = terms[1 - place.second], terms[place.second]
            with copy.inserting_before(target.next):
                made = call_through(copy, cut.name, cut.way, [first, second])
            tails[place.key] = _instead(copy, target, made)
        elif place.edit == "replace":
            tails[place.key] = _replace(copy, target, cut)
        elif place.before:
            source = next(iter(target.all_input_nodes))
            with copy.inserting_before(target):
                target.replace_input_with(source, call_through(copy, cut.name, cut.way, [source]))
        else:
            users = list(tail.users)
            with copy.inserting_before(max([tail, *others]).next):
                made = call_through(copy, cut.name, cut.way, [tail, *others])
            tail.replace_all_uses_with(made, delete_user_cb=functools.partial(_among, users))
            tails[place.key] = made
    copy.lint()
    return copy


def _among(users: list[fx.Node], user: fx.Node) -> bool:
    return user in users


def _replace(graph: fx.Graph, target: fx.Node, cut: Cut) -> fx.Node:
    """Puts the attention in the place of an operation of one value."""
    value = target.all_input_nodes[0]
    if cut.clones:  # or the attention would work on what the operation made of its input
        with graph.inserting_before(target):
            target.replace_input_with(value, graph.call_method("clone", (value,)))
    with graph.inserting_before(target.next):
        made = call_through(graph, cut.name, cut.way, [value, target] if cut.keeps_old else [value])
    return _instead(graph, target, made)


def _instead(graph: fx.Graph, target: fx.Node, made: fx.Node) -> fx.Node:
    """Lets `made` stand for the result of an operation, which goes where nothing needs it."""
    ahead = {made}
    todo = [made]
    while todo:  # the nodes between the two, which bring the channels to axis 1
        for node in todo.pop().all_input_nodes:
            if node not in ahead and node > target:
                ahead.add(node)
                todo.append(node)
    users = [user for user in target.users if user not in ahead]
    target.replace_all_uses_with(made, delete_user_cb=functools.partial(_among, users))
    if not target.users:
        graph.erase_node(target)
    return made


def _excite(graph: fx.Graph, target: fx.Node, cut: Cut) -> None:
    """Hands a convolution's weight through the attention."""
    named = dict(zip(("input", "weight"), target.args, strict=False)) | target.kwargs
    weight, value = named["weight"], named["input"]
    assert isinstance(weight, fx.Node)
    per_sample = lookup(cut.attn).per_sample
    with graph.inserting_before(target):
        made = graph.call_module(cut.name, (weight, value) if per_sample else (weight,))
    target.replace_input_with(weight, made)
    if per_sample:
        target.target = convolve_each
