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

from attnsurgeon.recording.record import Call, Traced
from attnsurgeon.sites.encoders import encoder_output
from attnsurgeon.sites.flow import (
    POOLS,
    Flow,
    bends,
    calls_making,
    is_weighted,
    kind_of,
    name_of,
    outermost_first,
    weighted_inside,
)
from attnsurgeon.sites.levels import SUMMING, Levels, is_vector
from attnsurgeon.sites.projections import (
    before_asked,
    before_bent_scores,
    before_flow,
    before_head,
    before_idle,
    before_layout,
    before_list,
    before_neck,
    before_parallel,
    before_predictions,
    before_resized_tokens,
    before_scores,
    behind_masks,
    without_projections,
)
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

_POOLED = POOLS | SUMMING
_ATTENDING = ("scaled_dot_product_attention", "matmul", "bmm", "einsum", "baddbmm")


@dataclass(frozen=True, eq=False)
class Ending:
    """Where the encoder of a network ends, and what comes after it.

    Attributes:
        end: the encoder's last value.
        dense: more than a vector is made of it: maps, or vectors of several maps.
        rises: where the resolution goes up behind the encoder.
        exchanged: by level, the last value of a resolution that goes down beside others.
        parted: by level, the value at which a lower resolution left one that it exchanges with.
        met: at the deepest resolution, the values of the encoder that the decoder meets again, each
            with the operation in which it does.
    """

    end: fx.Node
    dense: bool
    rises: tuple[Rise, ...] = ()
    exchanged: Mapping[int, fx.Node] = field(default_factory=dict)
    parted: Mapping[int, fx.Node] = field(default_factory=dict)
    met: tuple[tuple[fx.Node, fx.Node], ...] = ()


def find_ending(
    traced: Traced, flow: Flow, levels: Levels, residuals: Sequence[Residual]
) -> Ending | None:
    """Finds the encoder's end; None where there is no map."""
    ending = _ending(traced, flow, levels, residuals)
    vectors = all(n not in flow.rank or is_vector(n) for n in traced.root.outputs)
    return None if ending and vectors and _is_hardly_begun(ending.end, flow) else ending


def _ending(
    traced: Traced, flow: Flow, levels: Levels, residuals: Sequence[Residual]
) -> Ending | None:
    outputs = [n for n in traced.root.outputs if n in flow.rank]
    if not outputs:
        return None
    outputs = [given for n in outputs for given in (Flow.inputs(n) if _is_stack(n) else [n])]
    outputs = _before_exits(traced, _without_steps(outputs, flow, levels), flow, levels)
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
        end = before_idle(maps[-1], flow, levels)
        depth = levels.of[maps[-1]] or 0
        deeper = [n for n in on_way if (levels.of[n] or 0) > depth]
        if all(flow.reaches(n, maps[-1]) for n in deeper) and not _is_raised(end, flow, levels):
            end = before_asked(before_list(end, levels), flow, asked)
            end = _last_pooled(end, on_way, flow, levels)
            return Ending(before_scores(end, flow, levels), dense=False)
    if not on_way:
        return None
    late = set() if maps else descendants(flow, _iterated(traced, flow))
    on_way = [n for n in on_way if n not in late]
    if not on_way:
        return None
    ending = _dense(traced, flow, levels, residuals, outputs, on_way, late)
    one = all(len(n.meta["shape"]) == 2 for n in outputs) and not maps
    twice = len(traced.calls[ending.end.meta["call"].path]) > 1
    if one and not twice and not _is_given_others(ending.end, outputs, flow, levels):
        return None  # several networks side by side, and not one that runs several times
    return ending


def _is_stack(node: fx.Node) -> bool:
    """Whether an output is several in one: the predictions of all stacks, of all steps."""
    return name_of(node) == "stack"


def _without_steps(outputs: list[fx.Node], flow: Flow, levels: Levels) -> list[fx.Node]:
    """Of outputs that are vectors those that no other is made of: an embedding beside its scores,
    the matrix by which points were turned, are steps on the way.
    """
    if any(levels.of[n] is not None for n in outputs):
        return outputs
    return [n for n in outputs if not any(n is not m and flow.reaches(n, m) for m in outputs)]


def _is_hardly_begun(end: fx.Node, flow: Flow) -> bool:
    """Whether most weights of the network work at positions behind a map: what it works on from
    there on is no map that is known (frames of a clip that stand in the batch).
    """
    working = [n for n in flow.nodes if is_weighted(n)]
    later = [n for n in working if n is not end and flow.reaches(end, n)]
    at_positions = [n for n in later if not is_vector(n)]
    return len(at_positions) > 2 * sum(flow.reaches(n, end) for n in working)


def _last_pooled(end: fx.Node, on_way: list[fx.Node], flow: Flow, levels: Levels) -> fx.Node:
    """The last of several maps of one resolution that are each made of the one before and pooled
    (ResNet-mid); else the value itself.
    """
    level = levels.of.get(end)
    pooled = [n for n in on_way if levels.of[n] == level and flow.reaches(end, n)
              and any(is_vector(u) and name_of(u) in _POOLED for u in n.users)]  # fmt: skip
    chain = all(flow.reaches(one, other) for one, other in pairwise(pooled))
    return pooled[-1] if pooled and pooled[0] is end and chain else end


def _before_exits(
    traced: Traced, outputs: list[fx.Node], flow: Flow, levels: Levels
) -> list[fx.Node]:
    """The maps that exits look at, where every output is a vector that a module of one kind gives
    (MSDNet): how far these go down is the classifiers' own matter. Else the outputs.
    """
    exits = [_exit(n, levels) for n in outputs]
    if len(outputs) == 1 and exits[0] is not None and _is_one_of_several(exits[0], levels):
        given = [n for n in exits[0].inputs if levels.is_map(n)]
        return given if len(given) == 1 else outputs
    kinds = {(type(call.module), call.parent) for call in exits if call is not None}
    if len(outputs) < 2 or None in exits or len(kinds) > 1 or len(set(exits)) < len(outputs):
        return outputs
    given = [n for call in exits if call is not None for n in call.inputs if levels.is_map(n)]
    return given if len(given) == len(outputs) else outputs


def _is_one_of_several(exit: Call, levels: Levels) -> bool:
    """Whether modules of the same kind give vectors beside it that nobody asks for."""
    siblings = [] if exit.parent is None else exit.parent.events
    alike = [c for c in siblings if isinstance(c, Call) and type(c.module) is type(exit.module)]
    return any(
        call.inputs != exit.inputs
        and any(levels.is_map(n) for n in call.inputs)
        and all(levels.of.get(n) is None and not n.users for n in call.outputs)
        for call in alike
        if call is not exit and type(call.module) is not nn.Sequential
    )


def _exit(output: fx.Node, levels: Levels) -> Call | None:
    """The outermost module that is given a map and gives a vector as its one result."""
    found = None
    for call in calls_making(output):
        if call.parent is not None and any(levels.is_map(n) for n in call.inputs):
            found = call
    return found if levels.of[output] is None else None


def _is_given_others(end: fx.Node, outputs: list[fx.Node], flow: Flow, levels: Levels) -> bool:
    """Whether a value is also made of maps that go to the outputs past it: of networks beside each
    other that exchange what they make (CrossViT), each may be called the network.
    """
    past = ways_back(outputs, {end}) - {end}
    return any(levels.work[n] and levels.is_map(n) and flow.reaches(n, end) for n in past)


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
    met: tuple[tuple[fx.Node, fx.Node], ...] = ()
    rises = [r for r in find_rises(flow, levels) if r.node not in late]
    outer = _outer(rises, flow, levels)
    risen = descendants(flow, [r.node for r in outer])
    sources = [r for r in outer if r.source not in risen]
    if sources:
        depth = max(r.below for r in sources)
        end = encoder_output(traced, flow, levels, sources, risen)
        if end is None:
            raised = [r.source for r in sources if not r.pooled]
            end = _common_end(traced, outputs, flow, levels, depth, risen, raised)
            passed = None
            while end is not passed:
                passed = end
                end = without_projections(end, flow, levels, risen)
                end = before_flow(traced, end, flow, levels)
                end = before_parallel(end, flow, levels)
                end = before_resized_tokens(end, flow, levels)
                end = before_neck(traced, end, flow, levels, residuals)
                end = _before_decoder(traced, end, flow, levels, risen)
            end, met = _before_meetings(end, flow, levels)
    else:
        private = late | _private([r for r in rises if r not in outer], flow, levels)
        candidates = [n for n in on_way if n not in private]
        depth = max((levels.of[n] or 0 for n in candidates), default=0)
        end = _common_end(traced, outputs, flow, levels, depth, private)
        end = without_projections(before_bent_scores(end, flow, levels), flow, levels, set())
        end = before_predictions(before_head(end, outputs, flow, levels), outputs, flow, levels)
    end = before_layout(before_list(before_idle(end, flow, levels), levels), levels)
    behind = [r for r in outer if not any(_encloses(call, end) is False for call in r.blocks)]
    exchanged = {r.level: r.exchanged for r in rises
                 if r.exchanged is not None and r.exchanged not in risen}  # fmt: skip
    parted = {r.level: left for r in reversed(rises)
              if r.level in exchanged and (left := _left(r, flow, levels)) is not None}  # fmt: skip
    return Ending(end, True, tuple(behind), exchanged, parted, met)


def _left(rise: Rise, flow: Flow, levels: Levels) -> fx.Node | None:
    """The last map of the level of a rise that all of what rises was made of."""
    chain = [n for n in flow.dominators(rise.source) if levels.of[n] == rise.level]
    return chain[-1] if rise.exchanged is not None and chain else None


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
    met = behind_masks(later or met, levels)
    common = flow.common_dominator(met)
    if common is not None and levels.of.get(common) == depth and levels.is_map(common):
        return common
    if common is not None and levels.carried[common] == depth:  # tokens split into heads
        chain = [n for n in flow.dominators(common) if levels.of[n] == depth]
        if chain and levels.is_map(chain[-1]):
            return chain[-1]
    twice = any(len(traced.calls[n.meta["call"].path]) > 1 for n in met)
    return max(met, key=lambda n: (levels.work[n], -flow.rank[n] if twice else flow.rank[n]))


def _before_decoder(
    traced: Traced, node: fx.Node, flow: Flow, levels: Levels, risen: set[fx.Node]
) -> fx.Node:
    """What enters a module of several layers at the deepest resolution, whose like stand on the way
    up alone: a decoder's first block (FastDepth). Else the value itself.
    """
    for call in calls_making(node):
        given = [n for n in call.inputs if levels.is_map(n) and levels.of[n] == levels.of[node]]
        if call.parent is None or len(given) != 1 or weighted_inside(call) < 2:
            continue
        (entered,) = given
        here = [n for n in flow.before(entered) if levels.of[n] == levels.of[node]]
        if not any(map(is_weighted, here)):
            continue
        alike = [c for c in outermost_first(traced.root)
                 if c is not call and kind_of(c.module) == kind_of(call.module)]  # fmt: skip
        if len(alike) > 1 and all(risen.intersection(c.outputs) for c in alike):
            return entered
    return node


def _before_meetings(
    end: fx.Node, flow: Flow, levels: Levels
) -> tuple[fx.Node, tuple[tuple[fx.Node, fx.Node], ...]]:
    """Where the way up begins with values that the encoder has made at the deepest resolution, laid
    beside it the last one first (diffusion networks): what is there before, and these, each with
    the operation in which it is met. Else the value itself and none.
    """
    met: list[tuple[fx.Node, fx.Node]] = []
    for node in reversed(flow.before(end)):
        terms = Flow.inputs(node)
        if name_of(node) != "cat" or levels.of[node] != levels.of[end] or len(terms) != 2:
            continue
        early, late = sorted(terms, key=flow.rank.__getitem__)
        if not flow.reaches(early, late) or levels.of[early] != levels.of[end]:
            break
        if met and flow.rank[early] <= flow.rank[met[0][0]]:
            break  # what a dense block keeps
        met.insert(0, (early, node))
    if len(met) < 2 or any(flow.rank[early] > flow.rank[met[0][1]] for early, _ in met):
        return end, ()
    (before,) = (n for n in Flow.inputs(met[0][1]) if n is not met[0][0])
    return before, tuple(met)


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
