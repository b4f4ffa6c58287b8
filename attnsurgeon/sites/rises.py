"""Levels -> rises: where the resolution goes up again, and which of it is a block's own matter.

A rise is an operation whose result stands higher than all that it is made of. Most networks that
rise do so once, after their last stage: a decoder, a neck. Inner rises are none of that:

    a gate        everything goes through a squashing function into a product
    an exchange   two resolutions give to each other at the same time (HRNet, octave convolution)
    a small U     a module takes a map, goes down inside, and comes back to where it began
    a query       attention looks for few keys and answers at its own resolution
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from torch import fx

from attnsurgeon.recording.record import Call
from attnsurgeon.sites.flow import ACTIVATIONS, SQUASHING, UPSAMPLING, Flow, name_of
from attnsurgeon.sites.levels import Levels

_SPREADING = UPSAMPLING | {"expand", "expand_as", "repeat", "tile", "broadcast_to"}
BESIDE = 2  # so many weighted operations a block may do before it changes the resolution
_MERGING = frozenset(["add", "cat", "sub", "stack", "maximum", "minimum"])


@dataclass(frozen=True, eq=False)
class Rise:
    """One operation that raises the resolution.

    Attributes:
        node: what it makes.
        source: the map that it is made from: of a pooled vector, the map that was pooled.
        pooled: it is made from a vector.
        inner: it is a gate, or an exchange.
        exchanged: of an exchange the value that its own resolution goes on with.
        level, below: of the result and of the source.
        blocks: the calls around it that take and give one map of the same level, above the source.
    """

    node: fx.Node
    source: fx.Node
    pooled: bool
    inner: bool
    exchanged: fx.Node | None
    level: int
    below: int
    blocks: tuple[Call, ...]


def find_rises(flow: Flow, levels: Levels) -> list[Rise]:
    """Returns every rise of what the network has worked on, in order."""
    found = []
    aside = pooled_aside(flow)
    for node in flow.nodes:
        level, inputs = levels.of[node], Flow.inputs(node)
        if level is None or not inputs or not levels.work[node]:
            continue
        known = [below for n in inputs if (below := levels.carried[n]) is not None]
        pooled = (not known or inputs[0] in aside) and name_of(node) in _SPREADING
        if not pooled and (not known or min(known) <= level):
            continue
        source = _pooled_map(inputs[0], flow, levels, aside) if pooled else inputs[0]
        if source is None or not levels.work[source]:
            continue  # the image itself, resized before the network begins
        below = levels.carried[source]
        assert below is not None
        gate = is_gate(node, levels)
        swaps = not (gate or pooled) and _is_exchange(node, source, flow, levels)
        inner, exchanged = gate or swaps, _sum_of(node) if swaps else None
        blocks = tuple(_blocks(node, level, below, levels))
        found.append(Rise(node, source, pooled, inner, exchanged, level, below, blocks))
    return found


def descendants(flow: Flow, roots: Iterable[fx.Node]) -> set[fx.Node]:
    """Returns the values that depend on any of `roots`, these included."""
    found = set(roots)
    for node in flow.nodes:
        if node not in found and not found.isdisjoint(Flow.inputs(node)):
            found.add(node)
    return found


def ways_back(roots: Iterable[fx.Node], stops: Sequence[fx.Node] | set[fx.Node]) -> set[fx.Node]:
    """Returns what `roots` are made of, walking back no further than the values in `stops`."""
    found, todo = set(roots), [n for n in set(roots) if n not in stops]
    while todo:
        new = [n for n in Flow.inputs(todo.pop()) if n not in found]
        found.update(new)
        todo += [n for n in new if n not in stops]
    return found


def pooled_aside(flow: Flow) -> set[fx.Node]:
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


def _pooled_map(node: fx.Node, flow: Flow, levels: Levels, aside: set[fx.Node]) -> fx.Node | None:
    """The last map that every way to a pooled value passes."""
    chain = [n for n in flow.dominators(node) if n not in aside and levels.is_map(n)]
    return chain[-1] if chain else None


def is_gate(node: fx.Node, levels: Levels) -> bool:
    """Whether all that is made of a value comes, squashed, into a product of its own level."""
    squashed = _was_squashed(node)
    seen = {(node, squashed)}
    todo = [(node, squashed)]
    ends = 0
    while todo:
        value, squashed = todo.pop()
        users = [user for user in value.users if user.meta["data"]]
        if not users:
            return False
        for user in users:
            others = [n for n in Flow.inputs(user) if n is not value]
            if name_of(user) == "mul" and others:
                if not squashed:
                    return False
                ends += 1
                continue
            if levels.carried.get(user) is None or (others and name_of(user) not in _MERGING):
                return False
            state = user, squashed or name_of(user) in SQUASHING
            if state not in seen:
                seen.add(state)
                todo.append(state)
    return ends > 0


def _was_squashed(node: fx.Node) -> bool:
    """Whether a squashing function stands before a value, with nothing else but shapes between."""
    while inputs := Flow.inputs(node)[: 1 if name_of(node) == "expand_as" else None]:
        if len(inputs) > 1:
            break
        node = inputs[0]
        if name_of(node) in SQUASHING:
            return True
        if name_of(node) not in _SPREADING | {"view", "reshape", "permute", "getitem"}:
            return False
    return False


def _is_exchange(node: fx.Node, source: fx.Node, flow: Flow, levels: Levels) -> bool:
    """Whether the source's own level is given, past this rise, something of a higher resolution
    that was made beside the source.
    """
    merge = _first_merge(node)
    if merge is None:
        return False
    below = levels.carried[source]
    assert below is not None
    source = parting(source, levels)
    rank = flow.rank[source]
    for other in flow.nodes[rank + 1 :]:
        if levels.of[other] != below or len(inputs := Flow.inputs(other)) < 2:
            continue
        if not flow.reaches(source, other) or flow.reaches(merge, other):
            continue
        beside = [n for n in inputs if not flow.reaches(source, n)]
        newer = [n for given in beside for n in flow.before(given, beside=source)]
        if any(levels.is_map(n) and (levels.of[n] or 0) < below for n in newer):
            return True
    return False


def parting(node: fx.Node, levels: Levels) -> fx.Node:
    """The value that went several ways, one of which leads to `node` alone, or to an output."""
    level = levels.carried[node]
    while len(node.users) < 2 and len(inputs := Flow.inputs(node)) == 1:
        if levels.carried[inputs[0]] != level:
            break
        node = inputs[0]
    return node


def _sum_of(node: fx.Node) -> fx.Node | None:
    """What a rise is part of when all terms are there, and their activation."""
    merge = _first_merge(node)
    while merge is not None and len(merge.users) == 1:
        (user,) = merge.users
        if name_of(user) not in ACTIVATIONS | {"add"}:
            break
        merge = user
    return merge


def _first_merge(node: fx.Node) -> fx.Node | None:
    """The first value after a rise that is also made of something else."""
    while True:
        users = [user for user in node.users if user.meta["data"]]
        merged = next((user for user in users if len(Flow.inputs(user)) > 1), None)
        if merged is not None or len(users) != 1:
            return merged
        node = users[0]


def _blocks(node: fx.Node, level: int, below: int, levels: Levels) -> Iterator[Call]:
    for call in node.meta["call"].chain():
        given = {levels.carried.get(n) for n in call.inputs if n.meta["data"]} - {None}
        made = {levels.carried.get(n) for n in call.outputs if n.meta["data"]} - {None}
        if call.parent is not None and len(given) == 1 and given == made:
            (at,) = given
            if at is not None and at < below and at <= level:
                yield call
