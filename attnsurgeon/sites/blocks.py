"""Residuals, trunk -> the blocks of a network: where the computed path of each ends.

A residual block is known by its addition. Its fellows, which change the shape and add nothing, are
known by it: a module of the same class, or one that stands at the same place of the network (the
same way down, the numbers of a container left out) and works on the trunk. Where a network adds
nothing anywhere, its blocks are the modules on the trunk whose kind repeats, of nested ones those
that repeat most often, the modules beside these, and their fellows on the way up. A layer that
concatenates what it makes with what it was given is one as well.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass

from torch import fx, nn

from attnsurgeon.recording.record import Call, Event, Traced
from attnsurgeon.sites.flow import ACTIVATIONS, POOLS, Flow, convolution_of, is_weighted, name_of
from attnsurgeon.sites.residuals import Residual, is_pooled
from attnsurgeon.sites.trunk import Trunk

# What hands a value on in another order: a channel shuffle, tokens laid out as a map.
_REARRANGING = frozenset(
    ["view", "reshape", "transpose", "permute", "flatten", "unflatten", "contiguous"]
)


@dataclass(frozen=True)
class Block:
    """One block that adds nothing back.

    Attributes:
        call: the module's call.
        end: the last value of its computed path.
        output: what it hands on, before a pooling that ends it.
    """

    call: Call
    end: fx.Node
    output: fx.Node


def find_blocks(
    traced: Traced, flow: Flow, residuals: Sequence[Residual], trunk: Trunk
) -> list[Block]:
    """Finds the blocks that are no residual blocks, in order."""
    units = [call for call in _calls(traced.root) if _is_unit(call, flow)]
    if residuals:
        return _fellows(units, flow, residuals, trunk)
    return _repeated(units, flow, trunk)


def _fellows(
    units: list[Call], flow: Flow, residuals: Sequence[Residual], trunk: Trunk
) -> list[Block]:
    """The fellows of the residual blocks."""
    owners = [owner for r in residuals if (owner := owner_of(r)) is not None]
    kinds = {_kind(owner.module) for owner in owners}
    places = {_place(owner) for owner in owners}
    bent = any(_bends_behind(residual.add) for residual in residuals)
    found = []
    for call in _outside(units, residuals):
        end = call.outputs[0]
        among = end in trunk.values and _is_behind_stem(call, trunk) and _place(call) in places
        if among or _kind(call.module) in kinds:
            found.append(Block(call, _unbent(end, flow) if bent else end, end))
    return found


def _repeated(units: list[Call], flow: Flow, trunk: Trunk) -> list[Block]:
    """The blocks of a network that adds nothing anywhere."""
    on_trunk = trunk.values  # which the last pooling, the classifier's, is not of
    rows = [c for c in units if _unpooled(c.outputs[0], flow) in on_trunk or _is_dense(c, flow)]
    # In one plain row of layers all of the first resolution may count as the stem.
    chosen = _repeating([c for c in rows if _is_behind_stem(c, trunk)]) or _repeating(rows)
    kinds = {_kind(call.module) for call in chosen}
    chosen = [call for call in units if call in chosen or _kind(call.module) in kinds]
    joins = {_kind(call.module) for call in chosen if _joins_its_input(call, flow)}
    found = []
    for call in chosen:
        output = _unpooled(call.outputs[0], flow)
        end = _joined(call, flow) if _kind(call.module) in joins else output
        found.append(Block(call, end, output))
    return found


def spatial_convolution(start: int, end: fx.Node, flow: Flow) -> fx.Node | None:
    """The last convolution beyond 1x1 that all of a block's computed path passes, or None.

    Args:
        start: the order of the block's first value.
        end: the last value of its computed path.
    """
    for node in reversed(flow.dominators(end)):
        if _order(node) < start:
            return None
        spec = convolution_of(node)
        if spec is not None and max(spec.kernel) > 1 and not is_pooled(node):
            return node
    return None


def _calls(call: Call) -> Iterator[Call]:
    yield call
    for event in call.events:
        if isinstance(event, Call):
            yield from _calls(event)


def owner_of(residual: Residual) -> Call | None:
    """The innermost call that holds the addition and work of its branches; not the network's."""
    for call in residual.add.meta["call"].chain():
        if call.parent is not None and _work(call):
            return call
    return None


def _work(call: Call) -> int:
    """How many weighted operations on maps a call runs; those of a gate are on pooled ones."""
    total = 0
    for event in call.events:
        if isinstance(event, Event):
            total += not event.alias and any(is_weighted(n) for n in event.nodes) and not all(
                is_pooled(n) for n in event.nodes
            )  # fmt: skip
        else:
            total += _work(event)
    return total


def _is_unit(call: Call, flow: Flow) -> bool:
    """Whether a call could be a block: several weighted operations, one value as its output."""
    if call.parent is None or len(call.outputs) != 1 or not call.returns(call.outputs[0]):
        return False
    end = call.outputs[0]
    made = end in flow.rank and call.start <= end.meta["order"] < call.end
    return made and len(end.meta["axes"]) == 1 and not is_pooled(end) and _work(call) >= 2


def _outside(units: list[Call], residuals: Sequence[Residual]) -> list[Call]:
    """The calls that hold no residual addition and are no part of a residual branch."""
    holders = {call for r in residuals for call in r.add.meta["call"].chain()}
    adds = [r.add.meta["order"] for r in residuals]
    spans = [(_order(r.source), r.add.meta["order"]) for r in residuals]
    # A shortcut over other blocks (the image fed in again) makes no part of what it goes past.
    inner = [(a, b) for a, b in spans if not any(a < order < b for order in adds)]
    return [
        call
        for call in units
        if call not in holders and not any(a < call.start and call.end <= b for a, b in inner)
    ]


def _order(node: fx.Node) -> int:
    return node.meta.get("order", -1)  # of the network's inputs: before all


def _is_behind_stem(call: Call, trunk: Trunk) -> bool:
    return trunk.stem is None or call.start > trunk.stem.meta["order"]


def _is_dense(call: Call, flow: Flow) -> bool:
    """Whether what a call makes is concatenated with what it was given, as dense layers do."""
    given = set(call.inputs)
    joined = [user for user in call.outputs[0].users if name_of(user) == "cat"]
    return any(not given.isdisjoint(flow.inputs(user)) for user in joined)


def _kind(module: nn.Module) -> Hashable:
    """What repeats: a class, and of plain containers what they hold."""
    if type(module) in (nn.Sequential, nn.ModuleList):
        return (type(module), *(_kind(child) for child in module.children()))
    return type(module)


def _place(call: Call) -> tuple[str, ...]:
    """The way down to a module, without the numbers that containers give to their children."""
    return tuple("" if part.isdigit() else part for part in call.path.split("."))


def _repeating(units: list[Call]) -> list[Call]:
    """The calls whose kind occurs most often among nested ones, and those beside."""
    counts = Counter(_kind(call.module) for call in units)
    often = [call for call in units if counts[_kind(call.module)] > 1]

    def rank(call: Call) -> tuple[int, int]:
        return counts[_kind(call.module)], -sum(1 for _ in call.chain())

    best = [
        call
        for call in often
        if all(rank(call) >= rank(other) for other in often if _nested(call, other))
    ]
    beside = {call.path.rpartition(".")[0] for call in best}
    return [
        call
        for call in units
        if call in best
        or (
            call.path.rpartition(".")[0] in beside
            and not any(_nested(call, other) for other in best)
        )
    ]


def _nested(one: Call, other: Call) -> bool:
    return one in other.chain() or other in one.chain()


def _bends_behind(add: fx.Node) -> bool:
    """Whether the block of an addition has an activation behind it."""
    return any(
        name_of(user) in ACTIVATIONS and add.meta["call"] in user.meta["call"].chain()
        for user in add.users
    )


def _unbent(end: fx.Node, flow: Flow) -> fx.Node:
    """What a block ends with before the activation that its fellows have behind the addition."""
    inputs = flow.inputs(end)
    return inputs[0] if name_of(end) in ACTIVATIONS and len(inputs) == 1 else end


def _unpooled(end: fx.Node, flow: Flow) -> fx.Node:
    """What a block ends with before a pooling: that is the step down."""
    inputs = flow.inputs(end)
    return inputs[0] if name_of(end) in POOLS and len(inputs) == 1 else end


def _terms(call: Call, flow: Flow) -> list[fx.Node]:
    """What a block concatenates into its output, shuffled or not."""
    end = call.outputs[0]
    while name_of(end) in _REARRANGING and len(flow.inputs(end)) == 1:
        (end,) = flow.inputs(end)
    inside = end.meta["order"] >= call.start
    return flow.inputs(end) if name_of(end) == "cat" and inside else []


def _weights(call: Call, node: fx.Node, flow: Flow) -> int:
    """How many weighted operations of a call a value is made by."""
    return sum(is_weighted(n) for n in flow.before(node) if _order(n) >= call.start)


def _joins_its_input(call: Call, flow: Flow) -> bool:
    """Whether a block concatenates its own input, or a part of it, and one value that it made."""
    works = [_weights(call, term, flow) for term in _terms(call, flow)]
    return len(works) == 2 and works.count(0) == 1


def _joined(call: Call, flow: Flow) -> fx.Node:
    """Of the values that a block concatenates the one with the most work."""
    terms = _terms(call, flow)
    return max(terms, key=lambda term: _weights(call, term, flow)) if terms else call.outputs[0]
