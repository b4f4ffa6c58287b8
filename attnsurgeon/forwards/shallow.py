"""Call -> ShallowGraph: the forward of one module as an fx.Graph whose children are leaves.

The graph is that of the recorded forward or there is none: a trace in which a value decided a
branch, or something happened that a graph cannot hold, would be silently wrong later.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict
from dataclasses import dataclass
from operator import eq, is_
from typing import Any

import torch
from torch import fx, nn
from torch.fx.graph import PythonCode
from torch.utils import _pytree as pytree

from attnsurgeon.errors import SurgeonError
from attnsurgeon.forwards.alignment import Untraceable
from attnsurgeon.forwards.modes import changes_form, mode_questions
from attnsurgeon.forwards.retype import form_of, method_of
from attnsurgeon.forwards.symbolic import ShallowTracer, Variadic
from attnsurgeon.recording.randomness import dice_as_they_were
from attnsurgeon.recording.record import Call, Key, keyed_events
from attnsurgeon.recording.trace import PATCHING


@dataclass(frozen=True)
class ShallowGraph:
    """The forward of one module.

    Attributes:
        evaluate: the graph in eval mode.
        train: the graph in training mode where it differs, else None.
        structured: the placeholders are the flattened tensors and ints of nested arguments.
        methods: key -> name of the method of the module in whose code the operation stands.
        shadowed: keys of changes in place after which the forward goes on with the changed
            tensor instead of the operation's result.
    """

    evaluate: fx.Graph
    train: fx.Graph | None
    structured: bool
    methods: dict[Key, str]
    shadowed: frozenset[Key]

    def holds(self, key: Key) -> bool:
        """Whether the operation, or the argument, is there in both modes."""
        graphs = [self.evaluate] if self.train is None else [self.evaluate, self.train]
        if key[0] == "input" and self.structured:
            return False
        return all(any(name_in(n) == key for n in g.nodes) for g in graphs)


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
    tracer = ShallowTracer(call, structured, check=True)
    with mode_questions(module) as asked:
        evaluate = _trace(tracer, call)
    _check_code(evaluate.python_code("self"))
    for event in call.events:
        if isinstance(event, Call) and (changed := changes_form(event)) is not None:
            raise Untraceable(f"{changed} returns something of another form in training mode")
    if not asked and not tracer.missing:
        return ShallowGraph(
            evaluate, None, structured, tracer.methods, frozenset(tracer.holders.shadowed)
        )
    flags = {m: m.training for m in module.modules()}
    try:
        module.train()
        train = _trace(ShallowTracer(call, structured, check=False), call)
        if tracer.missing and not _goes_without(train, call):
            raise Untraceable(
                f"its forward does otherwise in training mode without {', '.join(tracer.missing)}"
            )
    finally:
        for m, training in flags.items():
            m.training = training
    train_code = train.python_code("self")
    if evaluate.python_code("self").src == train_code.src:
        return ShallowGraph(
            evaluate, None, structured, tracer.methods, frozenset(tracer.holders.shadowed)
        )
    _check_code(train_code)
    _match_keys(evaluate, train)
    return ShallowGraph(
        evaluate, train, structured, tracer.methods, frozenset(tracer.holders.shadowed)
    )


def _goes_without(graph: fx.Graph, call: Call) -> bool:
    """Whether a forward makes the same graph where what the record lacks is None, as it was.

    `targets is not None` is always true of a proxy: training code would hold one way only.
    """
    try:
        without = _trace(ShallowTracer(call, False, check=False, leave_out=True), call)
    except Untraceable:
        return False
    ways = [[(n.op, n.target) for n in g.nodes if n.op != "placeholder"] for g in (graph, without)]
    return ways[0] == ways[1]


def _check_code(code: PythonCode) -> None:
    """Refuses code that would not compile, or that calls what no import finds."""
    try:
        compile(method_of(code, "forward")[0], "<forward>", "exec")
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


def _trace(tracer: ShallowTracer, call: Call) -> fx.Graph:
    held = [_Attributes(module) for module in call.module.modules()]
    try:
        with PATCHING, dice_as_they_were() as dice, torch.inference_mode(False):
            with torch.enable_grad():
                for attributes in held:
                    attributes.guard()
                graph = tracer.trace(call.module)
            thrown = dice.thrown()
    except Untraceable:
        raise
    except Exception as error:  # a stranger's forward meets symbolic values: any error can come
        text = str(error).split("\n")[0]
        raise Untraceable(f"{type(error).__name__}: {text}{_place(error)}") from error
    finally:
        left = [name for attributes in held for name in attributes.restore()]
    if any(name.startswith("_tensor_constant") for name in left):
        raise Untraceable("it makes a constant tensor in its forward")
    if left:
        raise Untraceable(f"its forward leaves something behind on the module ({left[0]})")
    if thrown:
        raise Untraceable("its forward throws dice")
    for node in graph.nodes:
        node.type = None  # annotations would need imports
    return graph


class _Attributes:
    """The attributes of a module before a trace: to see what it left there, and to undo it."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.values = dict(module.__dict__)
        self.contents = [
            (name, value, value.copy() if value else value)
            for name, value in self.values.items()
            if type(value) in _HOLDERS
        ]

    def guard(self) -> None:
        """Lets a forward that looks at its parameters as such (their device, say) raise."""
        self.module.__dict__.update(_GUARDED)

    def restore(self) -> list[str]:
        """Puts everything back; returns the names of the attributes that had changed."""
        now = self.module.__dict__
        for name in _GUARDED:
            del now[name]
            if name in self.values:
                now[name] = self.values[name]
        left = []
        if not _same(now, self.values):
            absent = object()
            names = {**self.values, **now}
            left = [n for n in names if now.get(n, absent) is not self.values.get(n, absent)]
            now.clear()
            now.update(self.values)
        for name, value, content in self.contents:
            kept = () if content is value else content  # it was empty
            if (value or kept) and not _same(value, kept):
                left.append(name)
                value.clear()
                (value.extend if isinstance(value, list) else value.update)(kept)
        return left


def _refuse(recurse: bool = True) -> Any:
    raise Untraceable("its forward looks at its own parameters")


_GUARDED = {"parameters": _refuse, "buffers": _refuse}
_HOLDERS = (dict, OrderedDict, list, set)


def _same(value: Any, content: Any) -> bool:
    """Whether two containers hold the very same objects in the same order."""
    if len(value) != len(content):
        return False
    if isinstance(value, dict):
        held = all(map(is_, value.values(), content.values()))
        return held and all(map(eq, value, content))
    if isinstance(value, set):
        return value == content
    return all(map(is_, value, content))


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
