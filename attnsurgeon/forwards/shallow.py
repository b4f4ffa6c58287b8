"""Call -> ShallowGraph: the forward of one module as an fx.Graph whose children are leaves.

The graph is that of the recorded forward or there is none: a trace in which a value decided a
branch, or something happened that a graph cannot hold, would be silently wrong later.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import Any

from torch import fx
from torch.utils import _pytree as pytree

from attnsurgeon.errors import SurgeonError
from attnsurgeon.forwards.alignment import Untraceable
from attnsurgeon.forwards.modes import changes_form, mode_questions
from attnsurgeon.forwards.retype import form_of, source_of
from attnsurgeon.forwards.symbolic import ShallowTracer, Variadic
from attnsurgeon.forwards.tracing import traced
from attnsurgeon.forwards.ways import Ways, ways_through
from attnsurgeon.recording.record import Call, Key, keyed_events


@dataclass(frozen=True)
class ShallowGraph:
    """The forward of one module.

    Attributes:
        evaluate: the graphs in eval mode: that of the record, then those of the other ways that
            sizes lead.
        train: the same in training mode where it differs, else None.
        structured: the placeholders are the flattened tensors and ints of nested arguments.
        methods: key -> name of the method of the module in whose code the operation stands.
        shadowed: keys of changes in place after which the forward goes on with the changed
            tensor instead of the operation's result.
        open: where sizes may lead another way that could not be followed, as "block.py:31".
    """

    evaluate: tuple[fx.Graph, ...]
    train: tuple[fx.Graph, ...] | None
    structured: bool
    methods: dict[Key, str]
    shadowed: frozenset[Key]
    open: tuple[str, ...] = ()

    def holds(self, key: Key) -> bool:
        """Whether the operation, or the argument, is there in both modes."""
        if key[0] == "input" and self.structured:
            return False
        first = (graphs[0] for graphs in (self.evaluate, self.train or self.evaluate))
        return all(any(name_in(node) == key for node in graph.nodes) for graph in first)

    def misses(self, key: Key) -> bool:
        """Whether the operation, or the argument, is on some of the ways only."""
        return len(self.named(key)) < len(self.evaluate) + len(self.train or ())

    def named(self, key: Key) -> list[fx.Node]:
        """The operation, or the argument, on all the ways that it is on."""
        graphs = (*self.evaluate, *(self.train or ()))
        return [node for graph in graphs for node in graph.nodes if name_in(node) == key]


def name_in(node: fx.Node) -> Key | None:
    """What a node of a shallow graph is called: its operation, or ("input", position, 0)."""
    if node.op != "placeholder":
        return node.meta.get("key")
    inputs = [n for n in node.graph.nodes if n.op == "placeholder"]
    return "input", str(inputs.index(node)), 0


def shallow_graph(calls: list[Call]) -> ShallowGraph:
    """Traces the forward of the module of `calls` (all its recorded calls).

    Raises:
        Untraceable: with the reason.
    """
    call = calls[0]
    if "forward" in call.module.__dict__:
        raise Untraceable("its forward has been replaced on the object itself")
    keys = [[key for key, _ in keyed_events(c)] for c in calls]
    if any(k != keys[0] for k in keys):
        raise Untraceable("its calls take different ways through its forward")
    try:
        return _both_modes(call, structured=False)
    except Untraceable as plain:
        if len({form_of(*pytree.tree_flatten((c.args, c.kwargs))) for c in calls}) > 1:
            raise  # the flattened code has the constants of one call in it
        try:
            return _both_modes(call, structured=True)
        except Untraceable as flat:  # *args alone would have been no reason
            raise (flat if isinstance(plain, Variadic) else plain) from None


def _both_modes(call: Call, structured: bool) -> ShallowGraph:
    module = call.module
    with mode_questions(module) as asked:
        evaluate = ways_through(call, structured, check=True)
    _check_code(evaluate)
    for event in call.events:
        if isinstance(event, Call) and (changed := changes_form(event)) is not None:
            raise Untraceable(f"{changed} returns something of another form in training mode")
    for other in evaluate.graphs[1:]:
        _match_keys(evaluate.graphs[0], other)
    missing = evaluate.tracer.missing
    if not asked and not missing:
        return _shallow(evaluate, None, structured)
    flags = {m: m.training for m in module.modules()}
    try:
        module.train()
        train = ways_through(call, structured, check=False)
        if missing and not _goes_without(train.graphs[0], call):
            raise Untraceable(
                f"its forward does otherwise in training mode without {', '.join(missing)}"
            )
    finally:
        for m, training in flags.items():
            m.training = training
    if _codes(evaluate) == _codes(train):
        return _shallow(evaluate, None, structured)
    _check_code(train)
    for other in train.graphs:
        _match_keys(evaluate.graphs[0], other)
    return _shallow(evaluate, train, structured)


def _shallow(evaluate: Ways, train: Ways | None, structured: bool) -> ShallowGraph:
    tracer = evaluate.tracer
    open_ways = dict.fromkeys((*evaluate.open, *(train.open if train else ())))
    return ShallowGraph(
        evaluate.graphs, train.graphs if train else None, structured, tracer.methods,
        frozenset(tracer.holders.shadowed), tuple(open_ways),
    )  # fmt: skip


def _codes(ways: Ways) -> list[str]:
    return [graph.python_code("self").src for graph in ways.graphs]


def _goes_without(graph: fx.Graph, call: Call) -> bool:
    """Whether a forward makes the same graph where what the record lacks is None, as it was.

    `targets is not None` is always true of a proxy: training code would hold one way only.
    """
    try:
        without = traced(ShallowTracer(call, False, check=False, leave_out=True), call)
    except Untraceable:
        return False
    ways = [[(n.op, n.target) for n in g.nodes if n.op != "placeholder"] for g in (graph, without)]
    return ways[0] == ways[1]


def _check_code(ways: Ways) -> None:
    """Refuses code that would not compile, or that calls what no import finds."""
    for graph in ways.graphs:
        try:
            compile(source_of(graph, "forward")[0], "<forward>", "exec")
        except (SurgeonError, SyntaxError) as error:
            raise Untraceable(str(error)) from error


def _match_keys(evaluate: fx.Graph, train: fx.Graph) -> None:
    """Gives an operation of the training graph the key of the same line of code in eval mode.

    Counting names would not do: noise that is added in training only is one more addition.
    """
    points: dict[Any, list[Key]] = defaultdict(list)
    for node in evaluate.nodes:
        if "key" in node.meta:
            points[node.meta["point"]].append(node.meta["key"])
    runs = Counter(node.meta["point"] for node in train.nodes if "key" in node.meta)
    for node in train.nodes:
        if node.meta.pop("key", None) is not None:
            point = node.meta["point"]
            if runs[point] == len(points[point]) and points[point]:
                node.meta["key"] = points[point].pop(0)
                runs[point] -= 1
