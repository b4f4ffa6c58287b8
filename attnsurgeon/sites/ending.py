"""Flow -> the encoder's end: the last value on the way down, before a neck, a decoder or heads.

Where the network gives one vector, it is the last map that the whole network passes, unless deeper
ones are raised to it again (MobileNetV5's fusion of its last two resolutions). Else it is the last
value that everything made of the deepest resolution passes, which is the deepest that is
raised again, or where nothing is, the deepest of all. What only hands it on is not the encoder's:
a lateral or scoring convolution, the convolution before a pixel shuffle.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from torch import fx, nn

from attnsurgeon.recording.record import Call, Event, Traced
from attnsurgeon.sites.flow import (
    ACTIVATIONS,
    NORMS,
    Flow,
    bends,
    calls_making,
    convolution_of,
    is_weighted,
    name_of,
)
from attnsurgeon.sites.levels import Levels
from attnsurgeon.sites.residuals import Residual
from attnsurgeon.sites.rises import (
    BESIDE,
    Rise,
    descendants,
    find_rises,
    parting,
    pooled_aside,
    ways_back,
)

_ATTENDING = ("scaled_dot_product_attention", "matmul", "bmm", "einsum", "baddbmm")
_SHUFFLING = frozenset(["pixel_shuffle", "view", "reshape", "permute", "unflatten", "contiguous"])
_ASIDE = frozenset(["dropout", "contiguous", "view", "reshape", "permute", "transpose", "flatten"])


@dataclass(frozen=True, eq=False)
class Ending:
    """Where the encoder of a network ends, and what comes after it.

    Attributes:
        end: the encoder's last value.
        dense: more than a vector is made of it: maps, or vectors of several maps.
        rises: where the resolution goes up behind the encoder.
        exchanged: by level, the last value of a resolution that goes down beside others.
    """

    end: fx.Node
    dense: bool
    rises: tuple[Rise, ...] = ()
    exchanged: Mapping[int, fx.Node] = field(default_factory=dict)


def find_ending(
    traced: Traced, flow: Flow, levels: Levels, residuals: Sequence[Residual]
) -> Ending | None:
    """Finds the encoder's end; None where there is no map."""
    outputs = [n for n in traced.root.outputs if n in flow.rank]
    if not outputs:
        return None
    last = flow.common_dominator(outputs)
    maps = [n for n in flow.dominators(last) if levels.is_map(n)] if last is not None else []
    asked = _asked(flow)
    before = [n for n in maps if n not in asked]
    vectors = all(levels.of[n] is None for n in outputs)
    if asked and before and not vectors:  # a decoder asks for objects: the last map of the image
        return Ending(before[-1], dense=False)
    aside = pooled_aside(flow) | _attending(flow, residuals)
    needed = ways_back(outputs, set())
    on_way = [n for n in flow.nodes if n in needed and n not in aside and levels.is_map(n)]
    if vectors and maps:
        end = _before_idle(maps[-1], flow, levels)
        depth = levels.of[maps[-1]] or 0
        deeper = [n for n in on_way if (levels.of[n] or 0) > depth]
        if all(flow.reaches(n, maps[-1]) for n in deeper) and not _is_raised(end, flow, levels):
            end = _before_asked(end, flow, asked)
            return Ending(_before_scores(end, flow, levels), dense=False)
    if not on_way:
        return None
    late = set() if maps else descendants(flow, _iterated(traced, flow))
    on_way = [n for n in on_way if n not in late]
    if not on_way:
        return None
    ending = _dense(traced, flow, levels, residuals, outputs, on_way, late)
    one = all(len(n.meta["shape"]) == 2 for n in outputs) and not maps
    if one and len(traced.calls[ending.end.meta["call"].path]) == 1:
        return None  # several networks side by side, and not one that runs several times
    return ending


def _is_raised(end: fx.Node, flow: Flow, levels: Levels) -> bool:
    """Whether the network has been deeper than a map, and has come up to it again: itself, and not
    inside of a block that is given a map and gives one like it.
    """
    rises = [r for r in _outer(find_rises(flow, levels), flow, levels) if not r.blocks]
    return any(r.below > (levels.of[end] or 0) and flow.reaches(r.node, end) for r in rises)


def _dense(
    traced: Traced,
    flow: Flow,
    levels: Levels,
    residuals: Sequence[Residual],
    outputs: list[fx.Node],
    on_way: list[fx.Node],
    late: set[fx.Node],
) -> Ending:
    rises = [r for r in find_rises(flow, levels) if r.node not in late]
    outer = _outer(rises, flow, levels)
    risen = descendants(flow, [r.node for r in outer])
    sources = [r for r in outer if r.source not in risen]
    if sources:
        depth = max(r.below for r in sources)
        end = _encoder_output(traced, flow, levels, sources, risen)
        if end is None:
            raised = [r.source for r in sources if not r.pooled]
            end = _common_end(traced, outputs, flow, levels, depth, risen, raised)
            end = _without_projections(end, flow, levels, risen)
            end = _before_neck(traced, end, flow, levels, residuals)
    else:
        private = late | _private([r for r in rises if r not in outer], flow, levels)
        candidates = [n for n in on_way if n not in private]
        depth = max((levels.of[n] or 0 for n in candidates), default=0)
        end = _common_end(traced, outputs, flow, levels, depth, private)
        end = _without_projections(end, flow, levels, set())
    end = _before_idle(end, flow, levels)
    behind = [r for r in outer if not any(_encloses(call, end) is False for call in r.blocks)]
    exchanged = {r.level: r.exchanged for r in rises
                 if r.exchanged is not None and r.exchanged not in risen}  # fmt: skip
    return Ending(end, dense=True, rises=tuple(behind), exchanged=exchanged)


def _iterated(traced: Traced, flow: Flow) -> list[fx.Node]:
    """What modules give that are given again what they have made: an iteration (RAFT) behind the
    encoders.
    """
    found: list[fx.Node] = []
    for runs in traced.calls.values():
        made = [next((n for n in run.outputs if n in flow.rank), None) for run in runs]
        if len(runs) > 2 and None not in made:
            known = [n for n in made if n is not None]
            if all(flow.reaches(a, b) for a, b in pairwise(known)):
                found += known
    return found


def _outer(rises: list[Rise], flow: Flow, levels: Levels) -> list[Rise]:
    """The rises that are the network's own, and not those of a block: one of which the network
    goes as deep again, or another of the same class.
    """
    outer = [r for r in rises if not r.inner]
    around = {(call, r.below) for r in outer for call in r.blocks}
    followed = {call for call, below in around if _is_followed(call, below, flow, levels)}
    classes = {type(call.module) for call in followed} - {nn.Sequential}
    return [r for r in outer if followed.isdisjoint(r.blocks)
            and classes.isdisjoint(type(call.module) for call in r.blocks)]  # fmt: skip


def _is_followed(call: Call, below: int, flow: Flow, levels: Levels) -> bool:
    """Whether a block is done with its rise, and the network goes as deep again."""
    (made,) = call.outputs[:1]
    later = flow.nodes[flow.rank[made] + 1 :]
    return any((levels.of[n] or 0) >= below and flow.reaches(made, n) for n in later)


def _encloses(call: Call, node: fx.Node) -> bool:
    return call.start <= node.meta["order"] < call.end


def _private(rises: list[Rise], flow: Flow, levels: Levels) -> set[fx.Node]:
    """The lower resolutions of rises that are blocks' own matter."""
    found: set[fx.Node] = set()
    for rise in rises:
        chain = [n for n in flow.dominators(rise.node)[:-1] if levels.carried[n] == rise.level]
        if chain:
            way = flow.between(chain[-1], rise.node)
            found.update(n for n in way if (levels.carried[n] or 0) > rise.level)
    return found


def _common_end(
    traced: Traced,
    outputs: list[fx.Node],
    flow: Flow,
    levels: Levels,
    depth: int,
    risen: set[fx.Node],
    raised: Sequence[fx.Node] = (),
) -> fx.Node:
    """The last value that everything made of one resolution passes; of values that are raised one
    after the other (UNETR's tokens of several depths), the last.
    """
    stops = {n for n in flow.nodes if levels.is_map(n) and n not in risen
             and (levels.of[n] or 0) <= depth}  # fmt: skip
    met = [n for n in ways_back(outputs, stops) if n in stops and levels.of[n] == depth]
    if not met:
        met = [n for n in flow.nodes if n in stops and levels.of[n] == depth][-1:]
    work = levels.work
    later = [n for n in met if not any(
        work[s] > work[n] + BESIDE and flow.reaches(parting(n, levels), s)
        for s in (raised if n in raised else met))]  # fmt: skip
    met = later or met
    common = flow.common_dominator(met)
    if common is not None and levels.of.get(common) == depth and levels.is_map(common):
        return common
    if common is not None and levels.carried[common] == depth:  # tokens split into heads
        chain = [n for n in flow.dominators(common) if levels.of[n] == depth]
        if chain and levels.is_map(chain[-1]):
            return chain[-1]
    twice = any(len(traced.calls[n.meta["call"].path]) > 1 for n in met)
    return max(met, key=lambda n: (levels.work[n], -flow.rank[n] if twice else flow.rank[n]))


def _encoder_output(
    traced: Traced, flow: Flow, levels: Levels, sources: list[Rise], risen: set[fx.Node]
) -> fx.Node | None:
    """The deepest map that the module gives in which the network goes down, where there is one:
    it rises nowhere, and holds most of the work before the rises and at least two steps down.
    """
    needed = ways_back([r.source for r in sources], set())
    working = [n for n in flow.nodes
               if n in needed and is_weighted(n) and levels.of[n] is not None]  # fmt: skip
    found: fx.Node | None = None
    for call in _outermost_first(traced.root):
        given = [n for n in call.outputs if n in flow.rank and levels.is_map(n)]
        if call.parent is None or not given or not risen.isdisjoint(given):
            continue
        inside = [n for n in working if _encloses(call, n)]
        if 2 * len(_paths(inside)) <= len(_paths(working)):
            continue
        at = {level for n in inside if (level := levels.of[n]) is not None}
        from_image = any(n.op == "placeholder" for n in call.inputs)
        depth = max(levels.of[n] or 0 for n in given)
        if max(at, default=0) > depth or (len(at) < 3 and not (from_image and len(at) > 0)):
            continue
        if from_image and len(at) < 2 and depth == 0:
            continue
        return [n for n in given if levels.of[n] == depth][-1]
    return found


def _paths(nodes: list[fx.Node]) -> set[tuple[str, int]]:
    """The operations in the forwards of modules, each once however often it runs."""
    return {(n.meta["call"].path, n.meta["event"].ordinal) for n in nodes}


def _outermost_first(root: Call) -> list[Call]:
    found, todo = [], [root]
    while todo:
        call = todo.pop(0)
        found.append(call)
        todo += [event for event in call.events if isinstance(event, Call)]
    return found


# What hands a map on and is no part of the encoder.


def _without_projections(node: fx.Node, flow: Flow, levels: Levels, risen: set[fx.Node]) -> fx.Node:
    """Walks back over lateral and scoring convolutions, and the convolution of a pixel shuffle."""
    depth = levels.of[node]
    while True:
        entered = entering_projection(node, levels, to_output=not risen) or without_image(
            node, levels
        )
        if entered is None and risen:
            entered = entering_lateral(node)
        if entered is None:
            entered = _whole_of(node)
        if entered is None or levels.of.get(entered) != depth or not levels.is_map(entered):
            return node
        if not levels.work[entered]:
            return node
        node = entered


def _before_neck(
    traced: Traced, node: fx.Node, flow: Flow, levels: Levels, residuals: Sequence[Residual]
) -> fx.Node:
    """The backbone's last value where a neck begins at the deepest resolution with a module of its
    own kind that makes the value narrower (YOLOv7), or with convolutions that do so behind the last
    residual sum (YOLOv3, bridges of a U).
    """
    depth = levels.of[node]
    for call in calls_making(node):
        given = [n for n in call.inputs if levels.of.get(n) == depth and levels.is_map(n)]
        alike = [c for c in _outermost_first(traced.root) if type(c.module) is type(call.module)]
        if call.parent is None or len(given) != 1 or len(alike) > 1 or weighted_inside(call) < 2:
            continue
        worked = [n for n in flow.before(given[0]) if is_weighted(n) and levels.of[n] == depth]
        if worked and _channels(node) < _channels(given[0]):
            node = given[0]
            break
    sums = {r.add for r in residuals if levels.of[r.add] == depth}
    chain = flow.dominators(node)
    last = next((n for n in reversed(chain) if n in sums), None)
    if last is None or last is node:
        return node
    after = [n for n in flow.between(last, node) if is_weighted(n)]
    if not after or _channels(after[0]) >= _channels(last):
        return node
    passed = [n for n in chain[chain.index(last) :] if n in (last, *last.users)]
    return [n for n in passed if n is last or name_of(n) in ACTIVATIONS][-1]


def _whole_of(node: fx.Node) -> fx.Node | None:
    """What was split into parts of which this is one, with its activation or without."""
    while name_of(node) in ACTIVATIONS | _ASIDE and len(inputs := Flow.inputs(node)) == 1:
        node = inputs[0]
    split = _main_input(node) if name_of(node) == "part" else None
    return _main_input(split) if split is not None else None


def entering_projection(node: fx.Node, levels: Levels, *, to_output: bool) -> fx.Node | None:
    """What enters a weighted operation whose bare result is handed on: a score, a lateral value.

    A convolution of several positions is one at the end of the network, or before a shuffle of
    channels into positions.
    """
    while name_of(node) in _ASIDE and len(inputs := Flow.inputs(node)) == 1:
        node = inputs[0]
    if not is_weighted(node):
        return None
    if not (is_pointwise(node) or to_output or _is_shuffled(node, levels)):
        return None
    return _main_input(node)


def _is_shuffled(node: fx.Node, levels: Levels) -> bool:
    """Whether channels become positions right behind a value."""
    level = levels.carried[node]
    while len(users := list(node.users)) == 1 and name_of(users[0]) in _SHUFFLING:
        node = users[0]
        at = levels.of.get(node)
        if at is not None and level is not None and at < level:
            return True
    return False


def is_pointwise(node: fx.Node) -> bool:
    """Whether a weighted operation looks at one position at a time."""
    spec = convolution_of(node)
    if spec is None:
        return is_weighted(node)
    return max(spec.kernel) == 1 and not name_of(node).startswith("conv_transpose")


def _main_input(node: fx.Node) -> fx.Node | None:
    return next(iter(Flow.inputs(node)), None)


def without_image(node: fx.Node, levels: Levels) -> fx.Node | None:
    """The term that the network has worked on, of a sum with the image itself."""
    terms = Flow.inputs(node)
    if name_of(node) not in ("add", "sub") or len(terms) != 2:
        return None
    worked = [t for t in terms if levels.work[t]]
    return worked[0] if len(worked) == 1 else None


def entering_lateral(node: fx.Node) -> fx.Node | None:
    """What enters a pointwise convolution with its norm and activation that is a module of its own
    and does not widen: it fits a map to what it will be merged with.
    """
    passed = node
    while name_of(passed) in ACTIVATIONS | NORMS | _ASIDE:
        before = _main_input(passed)
        if before is None:
            return None
        passed = before
    if passed is node or not is_weighted(passed) or not is_pointwise(passed):
        return None
    entered = _main_input(passed)
    if entered is None or _channels(passed) > _channels(entered) or not _is_unit(node, passed):
        return None
    return entered


def _channels(node: fx.Node) -> int:
    axes = node.meta["axes"]
    return node.meta["shape"][next(iter(axes))] if len(axes) == 1 else 0


def _is_unit(node: fx.Node, convolution: fx.Node) -> bool:
    """Whether the convolution is not the last step of a larger module, which gives the value."""
    for call in convolution.meta["call"].chain():
        if call.parent is not None and node in call.outputs and weighted_inside(call) > 1:
            return False
    return True


def weighted_inside(call: Call) -> int:
    """How many weighted operations a call runs."""
    total = 0
    for event in call.events:
        if isinstance(event, Event):
            total += any(is_weighted(n) for n in event.nodes) and not event.alias
        else:
            total += weighted_inside(event)
    return total


def _before_idle(node: fx.Node, flow: Flow, levels: Levels) -> fx.Node:
    """The last map of a resolution at which weights work: a pooling that only a classifier follows
    (VGG's last) is the classifier's.
    """
    way = flow.before(node)
    chain = [n for n in flow.dominators(node) if levels.is_map(n)]
    worked = {levels.carried[n] for n in way if is_weighted(n)}
    kept = [n for n in chain if levels.of[n] in worked]
    return kept[-1] if kept else node


def _before_asked(node: fx.Node, flow: Flow, asked: set[fx.Node]) -> fx.Node:
    """What enters the keys and values of a learned query that asks the last map, else the map."""
    if not is_weighted(node) or not is_pointwise(node):
        return node
    todo = list(node.users)
    while todo:
        user = todo.pop()
        if user in asked:
            continue
        if is_weighted(user) or not user.users:
            return node
        todo += user.users
    return (_main_input(node) or node) if asked else node


def _before_scores(node: fx.Node, flow: Flow, levels: Levels) -> fx.Node:
    """The last map where a network's scores are a map that is only pooled, else the map itself.

    NIN, SqueezeNet and class activation maps: a pointwise convolution with no norm behind it, or
    one that gives fewer channels and is not bent (ResNet in ResNet), and no weights after it.
    """
    users = [n for n in flow.nodes[flow.rank[node] + 1 :] if flow.reaches(node, n)]
    if any(is_weighted(n) for n in users):
        return node
    scores = node
    while name_of(scores) in ACTIVATIONS | _ASIDE and (before := _main_input(scores)) is not None:
        scores = before
    normed = scores if scores is node and name_of(scores) in NORMS else None
    if normed is not None:
        scores = _main_input(normed) or scores
    if not is_weighted(scores) or not is_pointwise(scores):
        return node
    entered = _main_input(scores)
    narrower = entered is not None and _channels(scores) < _channels(entered)
    if normed is not None and not (narrower and _is_unit(normed, scores)):
        return node  # a wider map, or the last step of a block (an inverted residual's)
    chain = [n for n in flow.dominators(scores)[:-1] if levels.is_map(n)]
    same = [n for n in chain if levels.of[n] == levels.of[node]]
    return same[-1] if same else node


# What is no resolution of the network.


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


def _attending(flow: Flow, residuals: Sequence[Residual]) -> set[fx.Node]:
    """What is inside the branches that attend: keys and values may be pooled, maps be heads."""
    branches = [flow.between(r.source, branch) for r in residuals for branch in r.branches]
    found: set[fx.Node] = set()
    for node in flow.nodes:
        if name_of(node) in _ATTENDING and bends(node):
            around = [branch for branch in branches if node in branch]
            found.update(min(around, key=len, default=()))
    return found
