"""Traced -> Flow: who depends on whom among the values that depend on the input."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import fx, nn

from attnsurgeon.recording.record import Call, Event, Traced

ACTIVATIONS = frozenset(
    [
        "relu",
        "relu6",
        "silu",
        "gelu",
        "hardswish",
        "leaky_relu",
        "elu",
        "selu",
        "celu",
        "prelu",
        "rrelu",
        "mish",
        "softplus",
        "hardtanh",
    ]
)
CONVOLUTIONS = frozenset(
    ["conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"]
)
SCRIPTED_CONVOLUTION = "convolution.default"  # as a scripted module runs it, of whatever rank
NORMS = frozenset(["batch_norm", "layer_norm", "group_norm", "instance_norm", "rms_norm"])
_POOLINGS = ("max", "avg", "adaptive_max", "adaptive_avg", "lp", "fractional_max")
POOLS = frozenset(f"{kind}_pool{rank}d" for kind in _POOLINGS for rank in (1, 2, 3))
UPSAMPLING = frozenset(
    [
        "interpolate",
        "upsample",
        "conv_transpose1d",
        "conv_transpose2d",
        "conv_transpose3d",
        "pixel_shuffle",
        "grid_sample",
    ]
)
SQUASHING = frozenset(["sigmoid", "tanh", "softmax", "log_softmax", "hardsigmoid"])
# Functions that bend their input; a product of two values bends too (see `bends`).
_BENDING = (
    ACTIVATIONS
    | SQUASHING
    | frozenset(
        [
            "exp",
            "pow",
            "sqrt",
            "rsqrt",
            "erf",
            "scaled_dot_product_attention",
            "multi_head_attention_forward",
            "layer_norm",
            "group_norm",
            "instance_norm",
            "rms_norm",
            "normalize",
            "unseen",
            "attention",
            "log",
        ]
    )
)
_WEIGHTED = ("linear", "multi_head_attention_forward", SCRIPTED_CONVOLUTION)
_PRODUCTS = frozenset(["mul", "matmul", "bmm", "einsum", "div", "baddbmm"])


def name_of(node: fx.Node) -> str:
    """Returns the plain name of the operation that made a node."""
    return node.meta.get("name", node.op)


def is_weighted(node: fx.Node) -> bool:
    """Whether the operation maps data by learned weights: convolution, linear, attention."""
    name = name_of(node)
    if name in CONVOLUTIONS or name in _WEIGHTED:
        return node.meta["data"]
    if name in ("matmul", "bmm", "einsum"):
        return sum(n.meta["data"] for n in node.all_input_nodes) == 1
    return False


def bends(node: fx.Node) -> bool:
    """Whether the operation is non-linear in the data."""
    name = name_of(node)
    if name in _PRODUCTS:
        return sum(n.meta["data"] for n in node.all_input_nodes) > 1
    return name in _BENDING


@dataclass(frozen=True)
class Convolution:
    """What a convolution node says of itself; `kernel` has one entry an axis, as have `stride` and
    `dilation`.
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    depthwise: bool


def convolution_of(node: fx.Node) -> Convolution | None:
    """Reads kernel, stride and groups off the recorded call and the shape of its weight."""
    name = name_of(node)
    if name not in (*CONVOLUTIONS, SCRIPTED_CONVOLUTION) or not node.meta["data"]:
        return None
    given = dict(zip(_CONV_ARGS[: len(node.args)], node.args, strict=False)) | node.kwargs
    if name == SCRIPTED_CONVOLUTION:
        given["groups"] = node.args[-1]
    if name.startswith("conv_transpose"):
        given["groups"] = node.kwargs.get("groups", node.args[6] if len(node.args) > 6 else 1)
        given["dilation"] = node.kwargs.get("dilation", node.args[7] if len(node.args) > 7 else 1)
    weight: Any = given["weight"]
    source: Any = given["input"]
    kernel = tuple(weight.meta["shape"][2:])
    steps = _each(given.get("stride", 1), len(kernel))
    spread = _each(given.get("dilation", 1), len(kernel))
    groups = int(given.get("groups", 1))  # type: ignore[arg-type]
    return Convolution(kernel, steps, spread, groups, 1 < groups == source.meta["shape"][1])


def _each(given: Any, rank: int) -> tuple[int, ...]:
    """One number an axis."""
    values = tuple(given) if isinstance(given, (tuple, list)) else (given,)
    return values * rank if len(values) == 1 else values


_CONV_ARGS = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")


class Flow:
    """Dataflow of one recorded forward, restricted to the values that depend on the input.

    Where an image meets what is made of conditions alone (a time step, a text: inputs of fewer axes
    than the image), what dominates the result is what dominates the image.
    """

    def __init__(self, traced: Traced) -> None:
        self.nodes: list[fx.Node] = [n for n in traced.graph.nodes if n.meta["data"]]
        self.rank = {n: i for i, n in enumerate(self.nodes)}
        self._before: list[int] = []
        self._dominator: list[int] = []
        images = self._images()
        for i, node in enumerate(self.nodes):
            inputs = [self.rank[n] for n in self.inputs(node)]
            bits = 1 << i
            for j in inputs:
                bits |= self._before[j]
            self._before.append(bits)
            imaged = [j for j in inputs if self._before[j] & images]
            self._dominator.append(self._common(imaged or inputs) if inputs else -1)

    def _images(self) -> int:
        """The inputs that have the most axes, as bits."""
        inputs = [n for n in self.nodes if not self.inputs(n)]
        axes = {n: len(n.meta["shape"] or ()) for n in inputs}
        most = max(axes.values(), default=0)
        return sum(1 << self.rank[n] for n in inputs if axes[n] == most)

    @staticmethod
    def inputs(node: fx.Node) -> list[fx.Node]:
        """The direct inputs of a node that depend on the network's input."""
        return [n for n in node.all_input_nodes if n.meta["data"]]

    def reaches(self, early: fx.Node, late: fx.Node) -> bool:
        """Whether `late` depends on `early` (a value depends on itself)."""
        return bool(self._before[self.rank[late]] >> self.rank[early] & 1)

    def before(self, late: fx.Node, *, beside: fx.Node | None = None) -> list[fx.Node]:
        """The values that `late` is made of, in order, `late` included; not those that `beside`
        is made of, too.
        """
        bits = self._before[self.rank[late]]
        if beside is not None:
            bits &= ~self._before[self.rank[beside]]
        return [node for i, node in enumerate(self.nodes[: self.rank[late] + 1]) if bits >> i & 1]

    def between(self, early: fx.Node, late: fx.Node) -> list[fx.Node]:
        """The values on paths from `early` (left out) to `late` (included), in order."""
        first, last = self.rank[early], self.rank[late]
        bits = self._before[last]
        found = []
        reached = {early}
        for i in range(first + 1, last + 1):
            node = self.nodes[i]
            if any(n in reached for n in node.all_input_nodes):
                reached.add(node)
                if bits >> i & 1:
                    found.append(node)
        return found

    def dominators(self, node: fx.Node) -> list[fx.Node]:
        """The values that every path from the input to `node` passes, in order, `node` included."""
        chain, i = [], self.rank[node]
        while i >= 0:
            chain.append(self.nodes[i])
            i = self._dominator[i]
        return chain[::-1]

    def common_dominator(self, nodes: Iterable[fx.Node]) -> fx.Node | None:
        """The last value that every path to each of `nodes` passes."""
        i = self._common([self.rank[n] for n in nodes])
        return self.nodes[i] if i >= 0 else None

    def _common(self, ranks: list[int]) -> int:
        meet = ranks[0]
        for other in ranks[1:]:
            while meet != other:
                if meet > other:
                    meet = self._dominator[meet]
                else:
                    other = self._dominator[other]
                if meet < 0 or other < 0:
                    return -1
        return meet


def calls_making(node: fx.Node) -> Iterator[Call]:
    """The calls, innermost first, whose only output is this very value."""
    call = node.meta["call"]
    while call is not None and call.returns(node):
        yield call
        call = call.parent


def weighted_inside(call: Call) -> int:
    """How many weighted operations a call runs."""
    total = 0
    for event in call.events:
        if isinstance(event, Event):
            total += any(is_weighted(n) for n in event.nodes) and not event.alias
        else:
            total += weighted_inside(event)
    return total


def outermost_first(root: Call) -> list[Call]:
    """A call and all inside of it, those of one depth together."""
    found, todo = [], [root]
    while todo:
        call = todo.pop(0)
        found.append(call)
        todo += [event for event in call.events if isinstance(event, Call)]
    return found


def kind_of(module: nn.Module) -> Hashable:
    """Returns what a module is: its class, of a plain list what stands in it, runs of equals as
    one.
    """
    if type(module) is not nn.Sequential:
        return type(module)
    inside = [kind_of(child) for child in module]
    return tuple(kind for i, kind in enumerate(inside) if i == 0 or kind != inside[i - 1])
