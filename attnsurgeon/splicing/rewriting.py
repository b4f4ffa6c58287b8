"""The graph of a module's forward + cuts -> generated code in which the attentions are called."""

from __future__ import annotations

import dataclasses
import functools
import operator
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import fx, nn
from torch.utils import _pytree as pytree

from attnsurgeon.attention.weights.each import convolve_each
from attnsurgeon.forwards.branches import branched
from attnsurgeon.forwards.retype import (
    Reference,
    flat_call,
    form_of,
    retyped,
)
from attnsurgeon.forwards.shallow import ShallowGraph, name_in
from attnsurgeon.planning.cut import Cut
from attnsurgeon.recording.record import Call
from attnsurgeon.splicing.channels_first import as_the_sum, call_through

Code = tuple[tuple[str, ...], tuple[Reference, ...]]


@dataclass(eq=False)
class Rewriting:
    """Gives modules generated code in which attentions are called; what is alike is made once."""

    _made: dict[Hashable, Code] = field(default_factory=dict)
    _texts: dict[int, Hashable] = field(default_factory=dict)

    def apply(self, host: nn.Module, call: Call, graph: ShallowGraph, cuts: Sequence[Cut]) -> None:
        """Gives the host its new code.

        Args:
            host: the module.
            call: of it, as recorded.
            graph: of its forward; modules that are alike have the same.
            cuts: those in its forward.
        """
        form = _form(call) if graph.structured else ""
        what = (self._text(graph), form, tuple(map(_what, cuts)))
        if what not in self._made:
            self._made[what] = _code(graph, form, cuts)
        retyped(host, *self._made[what])

    def _text(self, graph: ShallowGraph) -> Hashable:
        """A value that is equal for graphs that are written as the same code."""
        if id(graph) not in self._texts:  # the survey keeps it
            train = None if graph.train is None else tuple(map(_lines, graph.train))
            self._texts[id(graph)] = tuple(map(_lines, graph.evaluate)), train
        return self._texts[id(graph)]


def _lines(graph: fx.Graph) -> Hashable:
    return tuple(
        [
            (n.op, n.target, n.name, str(n.args), str(n.kwargs), n.type, n.meta.get("key"))
            for n in graph.nodes
        ]
    )


def _what(cut: Cut) -> Hashable:
    """What of a cut stands in the code."""
    place = dataclasses.replace(cut.place, host="", note="")
    return cut.name, cut.way, cut.keeps_old, cut.clones, cut.card.per_sample, place


def _form(call: Call) -> str:
    return form_of(*pytree.tree_flatten((call.args, call.kwargs)))


def _code(graph: ShallowGraph, form: str, cuts: Sequence[Cut]) -> Code:
    evaluate = [_with_attention(way, cuts) for way in graph.evaluate]
    train = [_with_attention(way, cuts) for way in graph.train or ()]
    sources: list[str] = []
    references: set[Reference] = set()

    def emit(made: list[fx.Graph], name: str) -> None:
        source, used = branched(made, name)
        sources.append(source)
        references.update(used)

    if not train and not graph.structured:
        emit(evaluate, "forward")
    else:
        emit(evaluate, "_attnsurgeon_eval")
        emit(train or evaluate, "_attnsurgeon_train")
        sources.append(_dispatcher(evaluate[0], sources[0], form if graph.structured else None))
        if graph.structured:
            references.add(("flat_call", flat_call.__module__, "flat_call"))
    return tuple(sources), tuple(sorted(references))


def _dispatcher(graph: fx.Graph, source: str, form: str | None) -> str:
    """The forward that picks the code of the mode the module is in."""
    pick = "(self._attnsurgeon_train if self.training else self._attnsurgeon_eval)"
    if form is not None:
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
    # Before an operation first: it may be replaced later, in this very list.
    for cut in sorted(cuts, key=lambda cut: not cut.place.before):
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
                beside = None if _in_place(target) else terms[1]
                made = copy.call_function(as_the_sum, (made, terms[0], beside))
            tails[place.key] = _instead(copy, target, made)
        elif place.edit == "replace":
            tails[place.key] = _replace(copy, target, cut)
        elif place.before:
            source = target.all_input_nodes[place.operand]
            with copy.inserting_before(target):
                made = call_through(copy, cut.name, cut.way, [source, *others])
            target.replace_input_with(source, made)
        else:
            users = list(tail.users)
            with copy.inserting_before(max([tail, *others]).next):
                made = call_through(copy, cut.name, cut.way, [tail, *others])
            tail.replace_all_uses_with(made, delete_user_cb=functools.partial(_among, users))
            tails[place.key] = made
    for node in copy.nodes:
        _ask_for_the_tensor(node)
    copy.lint()
    return copy


def _ask_for_the_tensor(node: fx.Node) -> None:
    """Lets a parametrization stand in the code as what it makes, which outlives it: `weight`."""
    owner, _, name = str(node.target).partition(".")
    if node.op == "call_module" and (owner, node.args) == ("parametrizations", ()):
        node.op, node.target = "get_attr", name


def _in_place(target: fx.Node) -> bool:
    """Whether an addition changes its first term, whose strides then stay."""
    return target.target is operator.iadd or target.target == "add_"


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
    per_sample = cut.card.per_sample
    with graph.inserting_before(target):
        made = graph.call_module(cut.name, (weight, value) if per_sample else (weight,))
    target.replace_input_with(weight, made)
    if per_sample:
        target.target = convolve_each
