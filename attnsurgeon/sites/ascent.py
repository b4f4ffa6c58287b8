"""Trunk -> what follows the encoder: a decoder with its skips, or a neck between it and the heads.

    skip      a value of the encoder where it meets, by concatenation or sum, one that has risen
    decoder   the last value of a resolution on the way up: what is raised next, or what is scored
    neck      where heads look at several resolutions: the last value of each before its heads

A network that comes back to the image's resolution, or looks at one resolution only, has a decoder;
one that looks at several has a neck.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import fx

from attnsurgeon.recording.record import Traced
from attnsurgeon.sites.ending import Ending
from attnsurgeon.sites.flow import (
    ACTIVATIONS,
    CONVOLUTIONS,
    NORMS,
    SQUASHING,
    UPSAMPLING,
    Flow,
    bends,
    is_weighted,
    name_of,
    weighted_inside,
)
from attnsurgeon.sites.levels import Levels, is_vector
from attnsurgeon.sites.projections import (
    before_layout,
    channels_of,
    entering_lateral,
    entering_projection,
    is_pointwise,
    without_image,
)
from attnsurgeon.sites.rises import BESIDE, Rise, descendants, is_gate, ways_back

_RESIZING = UPSAMPLING - CONVOLUTIONS
_MEETING = frozenset(["add", "cat", "sub", "mul", "stack", "maximum"])
_PEAKING = frozenset(["max_pool2d", "eq", "float", "to", "type"])  # scores where they are highest
_SHAPING = frozenset(["view", "reshape", "permute", "transpose", "flatten", "contiguous", "dropout",
                      "getitem", "part", "chunk", "clamp", "squeeze"])  # fmt: skip


@dataclass(frozen=True)
class Skip:
    """A value of the encoder that meets one of the decoder.

    Attributes:
        value: what crosses.
        into: the operation in which the two meet.
        meets: the values of the decoder that it meets there.
    """

    value: fx.Node
    into: fx.Node
    meets: tuple[fx.Node, ...] = ()


@dataclass(frozen=True)
class Ascent:
    """What follows the encoder; values in order.

    Attributes:
        skips: what crosses over to the way up.
        decoder: the last value of each resolution on the way up.
        neck: the values that heads of several resolutions look at.
    """

    skips: tuple[Skip, ...] = ()
    decoder: tuple[fx.Node, ...] = ()
    neck: tuple[fx.Node, ...] = ()


def find_ascent(traced: Traced, flow: Flow, levels: Levels, ending: Ending | None) -> Ascent:
    """Finds what follows the encoder."""
    if ending is None:
        return Ascent()
    outputs = [n for n in traced.root.outputs if n in flow.rank]
    if not ending.rises:
        return Ascent(neck=_looked_at_alone(outputs, traced, flow, levels, ending))
    needed = ways_back(outputs, set())
    risen = descendants(flow, [r.node for r in ending.rises]) & needed
    if not risen:
        return Ascent()
    encoder = set(flow.before(ending.end))
    depth = max(levels.of[ending.end] or 0, *(r.below for r in ending.rises))
    looked_at = _looked_at(outputs, levels)
    skips = tuple(_of_first_runs(_skips(flow, levels, risen, ending.end, depth), levels))
    skips = (*(_met_below(value, into) for value, into in ending.met), *skips)
    below = descendants(flow, [into for _, into in ending.met]) - risen
    if len(looked_at) > 1 and min(looked_at) > 0:
        neck = [
            _before_heads(nodes, traced, flow, levels, _others(looked_at, at))
            for at, nodes in looked_at.items()
        ]
        found = {n for n in neck if n is not None and n not in encoder}
        found = {n for n in found if not _is_inside_head(n, found - {n})}
        return Ascent(skips, neck=tuple(sorted(found, key=flow.rank.__getitem__)))
    rises = [r for r in ending.rises if r.node in needed and not r.pooled]
    raised = [before_layout(_raised(r, flow, levels), levels)
              for r in rises if flow.reaches(ending.end, r.node)]  # fmt: skip
    maps = _looked_at([n for n in outputs if not is_vector(n)], levels)
    looked = [n for given in maps.values() for scores in given for n in _features(scores, levels)]
    scored = [before_layout(entered, levels) for n in looked
              if (entered := _before_bent(n, risen, flow, levels)) is not None]  # fmt: skip
    # What is only resized before it is scored is no resolution of the decoder.
    scored = [n for n in scored if name_of(n) not in _RESIZING or Flow.inputs(n)[0] not in raised]
    predicted = {n for n in outputs if _is_predicted(n, levels)}
    found = [n for n in (*raised, *scored) if n not in predicted]
    ends = [_before_aside(n, found, risen, flow, levels) for n in found]
    way_up = {n for n in ends if levels.is_map(n)
              and (n in below or (n in risen and (levels.of[n] or 0) < depth))}  # fmt: skip
    last = _common(
        [n for n in way_up if not _goes_on(n, way_up, flow, levels)], risen | below, flow, levels
    )
    return Ascent(skips, decoder=tuple(sorted(last, key=flow.rank.__getitem__)))


def _before_bent(node: fx.Node, risen: set[fx.Node], flow: Flow, levels: Levels) -> fx.Node | None:
    """What enters scores that are normed or bent, where it has their resolution; None where it has
    another. Else the value itself.

    They have fewer channels than any map that they are made of; where no weights follow, and they
    are what the network gives, than any on the way up.
    """
    scores = node
    while name_of(scores) in ACTIVATIONS | NORMS and Flow.inputs(scores):
        scores = Flow.inputs(scores)[0]
    if scores is node or not is_weighted(scores) or len(scores.meta["axes"]) != 1:
        return node
    entered = Flow.inputs(scores)[0]
    before = [n for n in flow.before(entered) if levels.is_map(n) and is_weighted(n)]
    if not any(is_weighted(n) and flow.reaches(node, n) for n in flow.nodes[flow.rank[node] + 1 :]):
        before = [n for n in before if n in risen] or before
    if any(channels_of(n) <= channels_of(scores) for n in before):
        return node
    return entered if levels.of[entered] == levels.of[node] else None


def _before_aside(
    node: fx.Node, others: Sequence[fx.Node], risen: set[fx.Node], flow: Flow, levels: Levels
) -> fx.Node:
    """What enters the head that makes a value, where the decoder goes on beside it from there: one
    that is looked at in training alone. Else the value itself.
    """
    if node.op == "placeholder":
        return node
    for call in node.meta["call"].chain():
        given = [n for n in call.inputs if n in risen and levels.of[n] == levels.of[node]]
        if call.parent is None or len(given) != 1 or node in given or call.returns(node):
            continue
        beside = [n for n in others if not call.start <= n.meta["order"] < call.end
                  and not flow.reaches(node, n) and levels.is_map(n)
                  and (levels.of[n] or 0) <= (levels.of[node] or 0)]  # fmt: skip
        if any(flow.reaches(given[0], n) and n is not given[0] for n in beside):
            return given[0]
    return node


def _looked_at_alone(
    outputs: list[fx.Node], traced: Traced, flow: Flow, levels: Levels, ending: Ending
) -> tuple[fx.Node, ...]:
    """What heads of several resolutions look at where nothing rises (SSD); maps that are given as
    they are, and those of classifiers, have no heads.
    """
    found = _looked_at(outputs, levels)  # also the last map before one of a single position
    looked_at = {at: scores for at in found if (scores := list(filter(_is_score, found[at])))}
    vectors = all(len(n.meta["shape"]) == 2 for n in outputs)
    if not ending.dense or vectors or len(looked_at) < 2 or len(looked_at) < len(found):
        return ()
    sizes: dict[tuple[int, ...], list[fx.Node]] = {}  # 3 x 3 and 2 x 2 positions are one level
    for node in (n for scores in looked_at.values() for n in scores):
        sides = [n for i, n in enumerate(node.meta["shape"]) if i not in node.meta["axes"]]
        sizes.setdefault(tuple(sides), []).append(node)
    neck = {_before_heads(nodes, traced, flow, levels) for nodes in sizes.values()}
    return tuple(sorted((n for n in neck if n is not None), key=flow.rank.__getitem__))


def _goes_on(node: fx.Node, others: set[fx.Node], flow: Flow, levels: Levels) -> bool:
    """Whether another of these values is of the same resolution and made of this one."""
    same = [n for n in others if n is not node and levels.of[n] == levels.of[node]]
    return any(flow.reaches(node, n) for n in same)


def _is_inside_head(node: fx.Node, others: set[fx.Node]) -> bool:
    """Whether a value is made inside a module that is given the neck's others: prototypes of masks
    are the head's.
    """
    return any(call.parent is not None and not others.isdisjoint(call.inputs)
               for call in node.meta["call"].chain() if node not in call.outputs)  # fmt: skip


def _common(nodes: list[fx.Node], risen: set[fx.Node], flow: Flow, levels: Levels) -> set[fx.Node]:
    """One value for each resolution: of several that heads look at, what they all are made of."""
    found: set[fx.Node] = set()
    for level in {levels.of[n] for n in nodes}:
        here = [n for n in nodes if levels.of[n] == level]
        common = flow.common_dominator(here)
        one = common in risen and levels.of[common] == level and levels.is_map(common)
        found.update([common] if one and common is not None else here)
    return found


def _gated(flow: Flow, levels: Levels, risen: set[fx.Node], end: fx.Node) -> set[fx.Node]:
    """Values of the encoder behind a gate that what comes up has computed, where they meet it only
    later: they cross there.
    """
    found: set[fx.Node] = set()
    for node in flow.nodes:
        inputs = Flow.inputs(node)
        if node not in risen or name_of(node) != "mul" or len(inputs) != 2:
            continue
        kept = [n for n in inputs if n not in risen and not flow.reaches(end, n)]
        gates = [n for n in inputs if n in risen and name_of(n) in SQUASHING | _RESIZING]
        if len(kept) != 1 or len(gates) != 1:
            continue
        ahead = node
        while len(users := list(ahead.users)) == 1 and len(Flow.inputs(users[0])) == 1:
            ahead = users[0]
        if any(n in risen and not flow.reaches(node, n) and levels.carried[n] == levels.of[node]
               for user in ahead.users for n in Flow.inputs(user)):  # fmt: skip
            found.add(node)
            found.update(n for n in flow.between(node, ahead))
    return found


def _skips(
    flow: Flow, levels: Levels, risen: set[fx.Node], end: fx.Node, depth: int
) -> Iterable[Skip]:
    gated = _gated(flow, levels, risen, end)
    risen = risen - gated
    modulated = {n for n in flow.nodes if name_of(n) == "mul"
                 and any(name_of(given) in NORMS for given in Flow.inputs(n))}  # fmt: skip
    for node in flow.nodes:
        inputs = Flow.inputs(node)
        if node not in risen or name_of(node) not in _MEETING or len(inputs) < 2:
            continue
        if node in modulated or not modulated.isdisjoint(inputs):
            continue  # scale and shift of a norm (SPADE): a condition, and no map of the encoder
        up = [n for n in inputs if n in risen and levels.carried[n] == levels.of[node]]
        through = any(flow.reaches(end, n) for n in up)
        crossing = [n for n in inputs if levels.of[n] is not None and levels.work[n]
                    and (levels.of[n] or 0) < depth and (n in gated or not flow.reaches(end, n))
                    and (through or n not in risen) and not _is_image(n, flow, levels)
                    and not _is_of_another_run(n, up)]  # fmt: skip
        meets = tuple(n for n in up if n not in crossing)
        if crossing and meets and not is_gate(node, levels):
            yield from (Skip(value, node, meets) for value in crossing)


def _is_of_another_run(node: fx.Node, others: Sequence[fx.Node]) -> bool:
    """Whether a value is what one of some others is, of another image: what is matched."""
    made = _place_of(node)
    return made is not None and any(made == _place_of(n) for n in others if n is not node)


def _place_of(node: fx.Node) -> tuple[str, str, int] | None:
    event = node.meta.get("event")
    return None if event is None else (node.meta["call"].path, event.name, event.ordinal)


def _met_below(value: fx.Node, into: fx.Node) -> Skip:
    return Skip(value, into, tuple(n for n in Flow.inputs(into) if n is not value))


def _of_first_runs(skips: Iterable[Skip], levels: Levels) -> Iterable[Skip]:
    """Of operations that run again at the same resolution, for another image, the first alone: a
    cut in their module serves all runs.
    """
    first: dict[tuple[str, str, int, int | None], fx.Node] = {}
    for skip in skips:
        call, event = skip.into.meta["call"], skip.into.meta.get("event")
        if event is None:
            continue
        place = call.path, event.name, event.ordinal, levels.of[skip.into]
        if first.setdefault(place, skip.into) is skip.into:
            yield skip


def _is_image(node: fx.Node, flow: Flow, levels: Levels) -> bool:
    """Whether a value is no more than the image, enlarged by weights (LapSRN)."""
    return (levels.of[node] or 0) < 0 and not any(map(bends, flow.before(node)))


def _is_predicted(node: fx.Node, levels: Levels) -> bool:
    """Whether a value is the bare result of weights, or such and the image: an output that is
    raised again is a prediction, and no map of the decoder.
    """
    terms = [without_image(n, levels) or n for n in _terms(node)]
    return all(map(_is_score, terms))


def _terms(node: fx.Node) -> list[fx.Node]:
    return Flow.inputs(node) if name_of(node) == "cat" else [node]


def _looked_at(outputs: list[fx.Node], levels: Levels) -> dict[int, list[fx.Node]]:
    """The maps that the outputs are made of with no other map between, by level."""
    found: dict[int, list[fx.Node]] = {}
    seen, todo = set(outputs), list(outputs)
    while todo:
        node = todo.pop()
        level, inputs = levels.of[node], Flow.inputs(node)
        # What is put together of single numbers (where a heatmap is highest) only looks like a map.
        numbers = not is_weighted(node) and all(levels.of[n] is None for n in inputs)
        if level is not None and node.op != "placeholder" and not numbers:
            found.setdefault(level, []).append(node)
            continue
        new = [n for n in inputs if n not in seen]
        seen.update(new)
        todo += new
    return found


def _others(looked_at: Mapping[int, list[fx.Node]], level: int) -> list[fx.Node]:
    return [n for at, nodes in looked_at.items() if at != level for n in nodes]


def _before_heads(
    nodes: list[fx.Node],
    traced: Traced,
    flow: Flow,
    levels: Levels,
    others: Sequence[fx.Node] = (),
) -> fx.Node | None:
    """The last value that all heads of one resolution look at; what runs at several resolutions is
    a head, and so are a module that ends with the scores, and a lateral convolution, but one of
    which the scores of other resolutions are made, too.
    """
    level = levels.of[nodes[0]]
    seen = [n for node in nodes for n in _features(node, levels, keeping=True)]
    common = flow.common_dominator([n for n in seen if levels.carried[n] == level] or nodes)
    chain = [] if common is None else flow.dominators(common)
    maps = [n for n in chain if levels.of[n] == level and levels.is_map(n)]
    if not maps:
        return None
    own = [n for n in maps if not _is_shared(n, traced, levels)]
    node = (own or maps)[-1]
    made = [_bare(n).meta["order"] for n in nodes if _bare(n).op != "placeholder"]
    for call in node.meta["call"].chain():
        given = [n for n in call.inputs if levels.of.get(n) == level and levels.is_map(n)]
        scores = any(node.meta["order"] < order < call.end for order in made)
        if call.parent is not None and scores and len(given) == 1 and not call.returns(node):
            node = given[0]
    while (entered := entering_lateral(node)) is not None:
        if levels.of[entered] != level or not levels.is_map(entered):
            break
        if any(flow.reaches(node, n) for n in others):
            break
        node = entered
    return node


def _is_shared(node: fx.Node, traced: Traced, levels: Levels) -> bool:
    """Whether a value is made by weights that work at several resolutions; one activation may
    stand in every layer of a network.
    """
    for call in node.meta["call"].chain():
        runs = traced.calls[call.path]
        if call.parent is None or not weighted_inside(call) or len(runs) < 2:
            continue
        if len({levels.of.get(n) for run in runs for n in run.outputs}) > 1:
            return True
    return False


def _raised(rise: Rise, flow: Flow, levels: Levels) -> fx.Node:
    """The feature map that a rise begins with: what enters the block that makes it, where that goes
    on at the new resolution; a block that ends with its own upsampling is the old one's.
    """
    after = [n for n in flow.nodes[flow.rank[rise.node] + 1 :] if is_weighted(n)]
    scores = all(is_pointwise(n) for n in after if flow.reaches(rise.node, n))
    node = entering_projection(rise.source, levels, to_output=scores)
    if node is None or levels.of[node] != rise.below:
        node = rise.source
    fitted = entering_lateral(node)
    if fitted is not None and levels.of[fitted] == rise.below and levels.is_map(fitted):
        node = fitted
    for call in rise.node.meta["call"].chain():
        given = [n for n in call.inputs if levels.carried.get(n) == rise.below]
        others = {levels.carried.get(n) for n in call.inputs} - {rise.below, rise.level, None}
        if call.parent is None or len(given) != 1 or others:
            break
        later = any(levels.carried[n] == rise.level and n.meta["order"] < call.end for n in after)
        short = levels.work[node] - levels.work[given[0]] <= BESIDE and name_of(node) != "add"
        if later and short and levels.is_map(given[0]):
            node = given[0]
    return node


def _features(output: fx.Node, levels: Levels, *, keeping: bool = False) -> Iterable[fx.Node]:
    """The feature maps that a map of scores is made of, past squashing, resizing and summing.

    Args:
        output: the scores.
        levels: of the network.
        keeping: a convolution of several positions that leaves the channels as they are smoothes a
            map, and scores nothing.
    """
    found, seen, todo = [], {output}, [output]
    while todo:
        node = todo.pop()
        inputs = Flow.inputs(node)
        if keeping and is_weighted(node) and not is_pointwise(node) and _keeps_width(node):
            found.append(node)
            continue
        if name_of(node) in SQUASHING | _SHAPING | _RESIZING or _is_scaled(node):
            new = inputs
        elif is_weighted(node):
            new = [n for n in inputs[:1] if _is_sum(n) and _is_score(n)]
            found += map(_unpadded, inputs[: 1 - len(new)])
        elif (term := without_image(node, levels)) is not None:
            new = [term]
        elif _is_sum(node) and _is_score(node):
            new = inputs
        else:
            found.append(node)
            continue
        new = [n for n in new if n not in seen]
        seen.update(new)
        todo += new
    return found


def _bare(node: fx.Node) -> fx.Node:
    """What scores are before they are laid out otherwise or squashed."""
    while name_of(node) in SQUASHING | _SHAPING and len(inputs := Flow.inputs(node)) == 1:
        node = inputs[0]
    return node


def _unpadded(node: fx.Node) -> fx.Node:
    while name_of(node) == "pad":
        node = Flow.inputs(node)[0]
    return node


def _keeps_width(node: fx.Node) -> bool:
    before = Flow.inputs(node)[0].meta
    return [before["shape"][a] for a in before["axes"]] == [
        node.meta["shape"][a] for a in node.meta["axes"]
    ]


def _is_scaled(node: fx.Node) -> bool:
    """Whether an operation has a constant beside the data: the range of a depth, of an image."""
    return name_of(node) in ("mul", "div", "add", "sub") and len(Flow.inputs(node)) == 1


def _is_sum(node: fx.Node) -> bool:
    """Whether values of their own are put together: none of them is made of another, as what a
    block adds to its input is.
    """
    terms = Flow.inputs(node)
    if name_of(node) not in ("cat", "add", "stack", "mul") or len(terms) < 2:
        return False
    return not any(one in ways_back([other], {one}) for one in terms for other in terms
                   if one is not other)  # fmt: skip


def _is_score(node: fx.Node) -> bool:
    """Whether a value is the bare result of weighted operations, whatever its resolution."""
    passed = SQUASHING | _SHAPING | _RESIZING | _PEAKING
    while name_of(node) in passed or _is_scaled(node):
        inputs = Flow.inputs(node)
        if len(inputs) != 1:
            return bool(inputs) and name_of(node) in _PEAKING and all(map(_is_score, inputs))
        node = inputs[0]
    return all(map(_is_score, Flow.inputs(node))) if _is_sum(node) else is_weighted(node)
