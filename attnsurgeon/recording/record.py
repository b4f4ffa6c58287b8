"""What a recorded forward is made of: calls of modules, and the operations in each of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor, fx, nn

from attnsurgeon.shown import brief
from attnsurgeon.sizes import InputSize

if TYPE_CHECKING:
    from attnsurgeon.recording.inputs import InputForm, Inputs

Key = tuple[str, str, int]  # ("module", child path, n-th call) or ("function", name, n-th use)

# Methods and operators that are one operation under several names.
_SAME = {"iadd": "add", "radd": "add", "imul": "mul", "rmul": "mul", "truediv": "div",
         "itruediv": "div", "rtruediv": "div", "rdiv": "div", "divide": "div", "isub": "sub",
         "rsub": "sub", "subtract": "sub", "ipow": "pow", "rpow": "pow", "mod": "remainder",
         "imod": "remainder", "rmod": "remainder", "rfloordiv": "floordiv",
         "ifloordiv": "floordiv", "multiply": "mul", "concat": "cat",
         "concatenate": "cat", "true_divide": "div", "matmul": "matmul", "rmatmul": "matmul",
         "_max_pool1d": "max_pool1d", "_max_pool2d": "max_pool2d", "_max_pool3d": "max_pool3d",
         "hardtanh_": "hardtanh"}  # fmt: skip


MARK = "_attnsurgeon"  # attribute of a module that surgery inserted


@dataclass(eq=False, repr=False)
class Event:
    """One torch function called in a module's own forward.

    Attributes:
        name: the operation's plain name (`add` for `+`, `+=`, `torch.add`, `Tensor.add_`).
        nodes: the tensors it made or changed; for an alias, the value it handed through.
        alias: it returned its input unchanged (dropout in eval mode, contiguous, ...).
        ordinal: how many events of this name came before it in the same call.
    """

    name: str
    nodes: tuple[fx.Node, ...]
    alias: bool = False
    ordinal: int = 0

    def __repr__(self) -> str:
        return brief(self, f"{self.name}: {len(self.nodes)} values")


@dataclass(eq=False, repr=False)
class Call:
    """One call of one module: its inputs, its output and what happened inside, in order.

    Attributes:
        inputs, outputs: the values of the tensors among the arguments and in the output.
        inputs_after: the arguments' values when it ended; others where it changed them in place.
        start, end: the orders of the values made inside are in this range.
        name: the path under which the caller holds the module, which for one that stands at
            several places may be another than `path`; a second call carries `#2`.
        events: the operations and calls of its own forward, in order.
    """

    path: str
    module: nn.Module
    index: int
    parent: Call | None
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    start: int
    output: Any = None
    inputs: tuple[fx.Node, ...] = ()
    outputs: tuple[fx.Node, ...] = ()
    inputs_after: tuple[fx.Node, ...] = ()
    end: int = 0
    name: str = ""
    events: list[Event | Call] = field(default_factory=list)

    def __repr__(self) -> str:
        return brief(self, f"{self.path or '(root)'}: {type(self.module).__name__}")

    def returns(self, node: fx.Node) -> bool:
        """Whether the call's output is this value itself, not a tuple or dict around it."""
        return self.outputs == (node,) and isinstance(self.output, Tensor)

    def takes(self, node: fx.Node) -> bool:
        """Whether the value is the call's first argument and its only tensor."""
        return self.takes_first(node) and len(self.inputs) == 1

    def takes_first(self, node: fx.Node) -> bool:
        """Whether the value is the call's first argument, and no other of its tensors."""
        first = self.args[0] if self.args else None
        once = self.inputs[:1] == (node,) and self.inputs.count(node) == 1
        return once and isinstance(first, Tensor)

    def chain(self) -> Iterator[Call]:
        """Yields this call and the calls around it, innermost first."""
        call: Call | None = self
        while call is not None:
            yield call
            call = call.parent


@dataclass(eq=False, repr=False)
class Traced:
    """A recorded forward.

    Attributes:
        twin: the copy of the network that was run; same paths, same attributes.
        graph: one node a tensor; `node.meta` has `call` (the Call it happened in), `event`,
            `shape`, `dtype`, `order`, `data` (depends on the input), and where it was made by
            a change in place `over`, the value before.
        root: the call of the network itself.
        calls: module path -> its calls, in order.
        form: the form of the example input.
        example: the example input as it was given to the twin.
        device: "meta", or "cpu" where the forward needed real values.
        why_real: the error that the meta run ended with, where it did.
        known: what is found out about the record as a whole, once; filled by who does.
    """

    twin: nn.Module
    graph: fx.Graph
    root: Call
    calls: dict[str, list[Call]]
    form: InputForm
    example: Inputs
    device: str
    why_real: str | None = None
    known: dict[Any, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        about = f"{type(self.twin).__name__}: {len(self.graph.nodes):,} values"
        return brief(self, f"{about}, {len(self.calls):,} modules, on {self.device}")

    @property
    def batch(self) -> int:
        """The batch size of the example."""
        return self.form.batch

    @property
    def input_size(self) -> InputSize:
        """The size of the example, without the batch; of several inputs, the size of each."""
        return self.form.size


def operation_name(func: Any) -> str:
    """Returns the plain name of a torch function, method, operator or fx target."""
    name = func if isinstance(func, str) else getattr(func, "__name__", type(func).__name__)
    if name == "__get__":  # a property of Tensor: x.T, x.shape
        name = getattr(getattr(func, "__self__", None), "__name__", name)
    if name.startswith("__") and name.endswith("__"):
        name = name[2:-2]
    elif name.endswith("_") and not name.startswith("_"):
        name = name[:-1]
    return _SAME.get(name, name)


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Yields the tensors of nested containers, of dataclasses and mappings too."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple, set)):
        for item in value:
            yield from tensors_in(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from tensors_in(item)
    elif hasattr(value, "__dataclass_fields__") and not isinstance(value, type):
        for name in value.__dataclass_fields__:
            yield from tensors_in(getattr(value, name, None))


def map_tensors(value: Any, change: Callable[[Tensor], Any]) -> Any:
    """Returns `value` with every tensor of its lists, tuples and dicts replaced."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(map_tensors(v, change) for v in value))
    if type(value) in (list, tuple):
        return type(value)(map_tensors(v, change) for v in value)
    if type(value) is dict:
        return {k: map_tensors(v, change) for k, v in value.items()}
    return value


def keyed_events(call: Call) -> list[tuple[Key, Event | Call]]:
    """The data operations of a call's own forward, in order, each with its key."""
    seen: Counter[tuple[str, str]] = Counter()
    found: list[tuple[Key, Event | Call]] = []
    for event in call.events:
        name = _name_of(event, call)
        if name is not None:
            found.append(((*name, seen[name]), event))
            seen[name] += 1
    return found


def key_of(call: Call, wanted: Event | Call) -> Key:
    """The key of one event of a call."""
    return next(key for key, event in keyed_events(call) if event is wanted)


def _name_of(event: Event | Call, call: Call) -> tuple[str, str] | None:
    if isinstance(event, Call):
        return "module", child_name(call, event)
    if not any(n.meta["data"] for n in event.nodes):
        return None
    return "function", event.name


def name_of_call(call: Call, used: Counter[str]) -> str:
    """The name of a new call; `used` counts the names given so far."""
    name, parent = call.path, call.parent
    if parent is not None and parent.path and not name.startswith(f"{parent.path}."):
        inside = child_name(parent, call)
        name = name if inside.startswith("<") else f"{parent.name.partition('#')[0]}.{inside}"
    used[name] += 1
    return name if used[name] == 1 else f"{name}#{used[name]}"


def child_name(call: Call, child: Call) -> str:
    """The name of a called module relative to its caller, as torch.fx will find it."""
    prefix = f"{call.path}." if call.path else ""
    if child.path.startswith(prefix) and child.path != call.path:
        return child.path[len(prefix) :]
    for name, module in call.module.named_modules():
        if module is child.module:  # registered elsewhere first
            return name
    return f"<{child.path}>"
