"""Flow -> the trunk: the values every path passes, and what stem, stages and head they form.

A value lies on the trunk when every path from the input to the last feature map passes it. Its
level is the rounded base-2 logarithm of its stride. Stages are the levels from the stem's output
on, counted from 1.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from torch import fx, nn

from attnsurgeon.recording.record import Call, Event, Traced
from attnsurgeon.sites.flow import ACTIVATIONS, UPSAMPLING, Flow, bends, is_weighted, name_of
from attnsurgeon.sites.layouts import layout_of
from attnsurgeon.sites.residuals import Residual

_ATTENDING = ("scaled_dot_product_attention", "matmul", "bmm", "einsum", "baddbmm")


@dataclass(frozen=True)
class Trunk:
    """The trunk of one network.

    Attributes:
        values: the trunk's feature maps in order; the last is the head.
        stem: the value that enters the first stage, or None.
        ends: the last trunk value of each stage, in order.
        levels: the level of each stage, in order.
        entering: the ends that a lower resolution follows.
    """

    values: tuple[fx.Node, ...]
    stem: fx.Node | None
    ends: tuple[fx.Node, ...]
    levels: tuple[int, ...]
    entering: tuple[fx.Node, ...]


def stride_of(node: fx.Node, traced: Traced) -> float | None:
    """Input height / feature height; for tokens that of the square (the cube) of their number."""
    image = traced.root.inputs[0].meta["shape"] if traced.root.inputs else ()
    layout, _ = layout_of(node, traced.batch)
    if layout is None or layout == "NC" or len(image) < 3:
        return None
    shape = node.meta["shape"]
    if shape[0] != traced.batch:
        return None  # regions of an image, or images of two inputs
    if "L" in layout and len(image) > 3:
        ratio = math.prod(image[2:]) / shape[layout.index("L")]
        return ratio ** (1 / (len(image) - 2))
    return image[-2 if len(image) > 3 else -1] / shape[layout.index("H" if "H" in layout else "L")]


def level_of(node: fx.Node, traced: Traced) -> int | None:
    """The rounded base-2 logarithm of the stride; None for what is no map: pooled vectors, lists
    of boxes, unknown layouts.
    """
    stride = stride_of(node, traced)
    if stride is None or _positions(node) <= 1 or _is_list(node, traced):
        return None
    return round(math.log2(stride))


def _is_list(node: fx.Node, traced: Traced) -> bool:
    """Whether the two axes are no height and width: one is longer than the image's, one shorter.

    A detector lays the positions of all its maps side by side: 4 x 8400 of 640 x 640 pixels.
    """
    image = traced.root.inputs[0].meta["shape"]
    layout, _ = layout_of(node, traced.batch)
    if layout not in ("NCHW", "NHWC") or len(image) != 4:
        return False
    shape = node.meta["shape"]
    longer = [shape[layout.index(axis)] > side for axis, side in zip("HW", image[2:], strict=True)]
    return longer[0] != longer[1]


def find_trunk(traced: Traced, flow: Flow, residuals: Sequence[Residual] = ()) -> Trunk:
    """Finds stem, stages and head."""
    head = _head(traced, flow, residuals)
    if head is None:
        return Trunk((), None, (), (), ())
    chain = [n for n in flow.dominators(head) if n.op != "placeholder"]
    values = [n for n in chain if level_of(n, traced) is not None]
    if not values:
        return Trunk((), None, (), (), ())
    stem = _stem(traced, values)
    start = values.index(stem)
    if _holds_nothing_else(values, stem, traced):
        start += 1
    floor = level_of(values[start], traced)
    assert floor is not None
    ends: list[fx.Node] = []
    levels: list[int] = []
    for node in values[start:]:
        level = level_of(node, traced)
        assert level is not None
        if not levels or level > levels[-1]:
            if levels:
                ends.append(_entrance(node, values, levels[-1], traced))
            levels.append(level)
    ends.append(values[-1])
    return Trunk(tuple(values), stem, tuple(ends), tuple(levels), tuple(ends[:-1]))


def _holds_nothing_else(values: list[fx.Node], stem: fx.Node, traced: Traced) -> bool:
    """Whether the stem's output is alone at its resolution, so that no stage is there."""
    level = level_of(stem, traced)
    there = [n for n in values if level_of(n, traced) == level]
    units = sum(name_of(n) in ACTIVATIONS for n in there)
    return there[-1] is stem and units < 2 and stem is not values[-1]


def _positions(node: fx.Node) -> int:
    """The number of spatial positions of a feature map."""
    shape = node.meta["shape"][1:]
    (axis,) = node.meta["axes"]
    return math.prod(shape) // shape[axis - 1]


def _head(traced: Traced, flow: Flow, residuals: Sequence[Residual]) -> fx.Node | None:
    """The last feature map: before global pooling, or the deepest one where outputs are maps."""
    outputs = [n for n in traced.root.outputs if n in flow.rank]
    if not outputs:
        return None
    last = flow.common_dominator(outputs)
    chain = flow.dominators(last) if last is not None else []
    maps = [n for n in chain if n.op != "placeholder" and level_of(n, traced) is not None]
    if all(level_of(n, traced) is None for n in outputs):
        return maps[-1] if maps else None
    asked = _asked(flow)
    before = [n for n in maps if n not in asked]
    if asked and before:  # a decoder asks for objects: what it asks is the last map of the image
        return before[-1]
    aside = _pooled(flow) | _attending(flow, residuals)
    needed = _needed(outputs)  # a wrapper that collects inner maps runs the network to its end
    on_way = [n for n in flow.nodes if n.op != "placeholder" and n in needed and n not in aside]
    lowest = max((level_of(n, traced) or 0 for n in on_way), default=0)
    deep = [n for n in on_way if level_of(n, traced) == lowest]
    if not deep or lowest <= 0:
        return maps[-1] if maps else None
    risen = _risen(flow)  # a detector comes down a second time, beside its backbone
    return next((n for n in reversed(deep) if n not in risen), deep[-1])


def _asked(flow: Flow) -> set[fx.Node]:
    """What attention makes for learned queries: as many values as queries, and no positions."""
    found: set[fx.Node] = set()
    for node in flow.nodes:
        inputs = Flow.inputs(node)
        if name_of(node) in ("scaled_dot_product_attention", "multi_head_attention_forward"):
            query = node.args[0] if node.args else node.kwargs.get("query")
            if isinstance(query, fx.Node) and (query in found or not query.meta["data"]):
                found.add(node)
        elif inputs and found.issuperset(inputs):
            found.add(node)
    return found


def _needed(outputs: list[fx.Node]) -> set[fx.Node]:
    """The values that the outputs are made of, and the outputs."""
    found = set(outputs)
    todo = list(outputs)
    while todo:
        new = [n for n in Flow.inputs(todo.pop()) if n not in found]
        found.update(new)
        todo += new
    return found


def _risen(flow: Flow) -> set[fx.Node]:
    """What depends on a map that was upsampled."""
    found: set[fx.Node] = set()
    for node in flow.nodes:
        if name_of(node) in UPSAMPLING or not found.isdisjoint(Flow.inputs(node)):
            found.add(node)
    return found


def _pooled(flow: Flow) -> set[fx.Node]:
    """What is made of a map pooled to a size of its own (a pyramid of poolings), up to where it
    meets another value again: no resolution of the network.
    """
    found: set[fx.Node] = set()
    for node in flow.nodes:
        if "adaptive" in name_of(node):
            found.add(node)
        elif name_of(node) not in UPSAMPLING and (inputs := Flow.inputs(node)):
            found.update([node] if found.issuperset(inputs) else [])
    return found


def _attending(flow: Flow, residuals: Sequence[Residual]) -> set[fx.Node]:
    """What is inside the branches that attend: keys and values may be pooled, maps be heads."""
    branches = [flow.between(r.source, branch) for r in residuals for branch in r.branches]
    found: set[fx.Node] = set()
    for node in flow.nodes:
        if name_of(node) in _ATTENDING and bends(node):
            around = [branch for branch in branches if node in branch]
            found.update(min(around, key=len, default=()))
    return found


def _stem(traced: Traced, values: list[fx.Node]) -> fx.Node:
    """The value that enters the outermost module around the first block that comes back.

    Where no block comes back (VGG), the last trunk value of the first resolution.
    """
    blocks = [c for c in _calls(traced.root) if c.parent and _is_block(c, values)]
    kinds = Counter(type(c.module) for c in blocks)
    for call in blocks:
        if kinds[type(call.module)] < 2:
            continue
        for outer in call.chain():  # a gate that comes back stands inside a block that does not
            if outer in blocks and _last_before(outer.start, values) is not None:
                call = outer
        entrance = _last_before(call.start, values)
        if entrance is None:
            break
        level = level_of(entrance, traced)
        for outer in call.chain():
            before = _last_before(outer.start, values)
            if before is None or level_of(before, traced) != level:
                break
            entrance = before
        return entrance
    first = level_of(values[0], traced)
    return [n for n in values if level_of(n, traced) == first][-1]


def _entrance(lower: fx.Node, values: list[fx.Node], level: int, traced: Traced) -> fx.Node:
    """The trunk value that enters the outermost module which only makes this one step down."""
    new = level_of(lower, traced)
    entrance = values[values.index(lower) - 1]
    for call in lower.meta["call"].chain():
        before = _last_before(call.start, values)
        inside = [n for n in values if call.start <= n.meta["order"] < call.end]
        if before is None or level_of(before, traced) != level:
            break
        if any(level_of(n, traced) not in (level, new) for n in inside):
            break
        if before.meta["order"] < entrance.meta["order"]:
            entrance = before
    return entrance


def _last_before(order: int, values: list[fx.Node]) -> fx.Node | None:
    earlier = [n for n in values if n.meta["order"] < order]
    return earlier[-1] if earlier else None


def _calls(call: Call) -> list[Call]:
    found = [call]
    for event in call.events:
        if isinstance(event, Call):
            found += _calls(event)
    return found


def _is_block(call: Call, values: list[fx.Node]) -> bool:
    """Whether a call is a unit of the trunk: two or more weighted operations, a trunk output."""
    if isinstance(call.module, nn.Sequential) or len(call.outputs) != 1:
        return False
    return call.outputs[0] in values and _weighted(call) >= 2


def _weighted(call: Call) -> int:
    total = 0
    for event in call.events:
        if isinstance(event, Event):
            total += any(is_weighted(n) for n in event.nodes) and not event.alias
        else:
            total += _weighted(event)
    return total
