"""Flow -> the residual additions: which term is the shortcut, which are the computed branches.

An addition is residual when one term is a shortcut and every other term is a branch computed from
the same value by weights and a non-linearity. A shortcut is the block's input itself, or what
pointwise, pooling and normalising steps make of it with less work than the branch. That leaves out
what only looks alike: positional and rotary terms, parallel branches that re-parameterisation will
merge, merges of resolutions, splits of one value.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, replace

from torch import fx

from attnsurgeon.recording.record import Call
from attnsurgeon.sites.flow import (
    ACTIVATIONS,
    NORMS,
    POOLS,
    UPSAMPLING,
    Flow,
    bends,
    convolution_of,
    is_weighted,
    name_of,
)
from attnsurgeon.sites.levels import Levels

NO_SHORTCUT = "it has no shortcut: no term is a projection of the block's input, or all are"
PARTS = "its terms are different parts of one value"


@dataclass(frozen=True)
class Residual:
    """One residual addition.

    Attributes:
        add: the (last) addition.
        source: the value from which shortcut and branches both start. Of two streams that are
            each added a function of the other, the branch alone starts there.
        shortcut: the term that carries the block's input on.
        branches: the computed terms, stripped of the scales (LayerScale, drop-path, a constant)
            that stand between them and the addition.
    """

    add: fx.Node
    source: fx.Node
    shortcut: fx.Node
    branches: tuple[fx.Node, ...]


def find_residuals(flow: Flow, levels: Levels) -> tuple[list[Residual], dict[fx.Node, str]]:
    """Returns the residual additions, and for every other addition of values why it is none."""
    found: dict[fx.Node, Residual] = {}
    refused: dict[fx.Node, str] = {}
    for node in flow.nodes:
        if not _adds_values(node) or _is_inner_sum(node):
            continue
        verdict = _judge(node, flow, levels)
        if isinstance(verdict, Residual):
            found[node] = verdict
        else:
            refused[node] = verdict
    for residual in list(found.values()):
        _couple(residual, found, refused, flow)
    return sorted(found.values(), key=lambda r: flow.rank[r.add]), refused


def _adds_values(node: fx.Node) -> bool:
    """Whether the node adds two values of its own shape, rank 3 or more."""
    if name_of(node) != "add" or len(node.meta["shape"] or ()) < 3:
        return False
    terms = Flow.inputs(node)
    return len(terms) == 2 and all(t.meta["shape"] == node.meta["shape"] for t in terms)


def _is_inner_sum(node: fx.Node) -> bool:
    """Whether the sum is only a term of another sum of the same forward: `a + b + c`."""
    users = list(node.users)
    return len(users) == 1 and _adds_values(users[0]) and users[0].meta["call"] is node.meta["call"]


def _terms(node: fx.Node) -> list[fx.Node]:
    terms = []
    for term in Flow.inputs(node):
        terms += _terms(term) if _adds_values(term) and _is_inner_sum(term) else [term]
    return terms


def _unscaled(node: fx.Node) -> fx.Node:
    """Walks back through products with learned or constant scales that are used once."""
    while name_of(node) in ("mul", "div") and len(node.users) == 1:
        inputs = Flow.inputs(node)
        if len(inputs) != 1 or inputs[0].meta["shape"] != node.meta["shape"]:
            break
        node = inputs[0]
    return node


def _judge(add: fx.Node, flow: Flow, levels: Levels) -> Residual | str:
    terms = _terms(add)
    start = _start(terms, flow)
    if isinstance(start, str):
        return _of_streams(add, terms, flow, levels) or _of_a_pair(add, terms, flow) or start
    source, shortcut = start
    carried = _weights(flow.between(source, shortcut))
    branches = []
    for term in terms:
        if term is shortcut:
            continue
        path = flow.between(source, term)
        if why := _merges(source, path, add, flow, levels):
            return why
        pooled = shortcut is source and _pools_and_subtracts(source, path)
        if not (any(bends(n) for n in path) or pooled or _is_normed_row(path)):
            return "a term is linear: a positional or re-parameterisation branch"
        if _weights(path) <= carried and not (carried == 0 and (pooled or _normed(path))):
            return "no term carries more weights than the shortcut"
        branches.append(_unscaled(term))
    return Residual(add, source, shortcut, tuple(branches))


def _pools_and_subtracts(source: fx.Node, path: Sequence[fx.Node]) -> bool:
    """Whether a branch is what a pooling changes of the block's input (EfficientFormer's mixer)."""
    pools = any(name_of(n) in POOLS and n.meta["shape"] == source.meta["shape"] for n in path)
    return pools and any(name_of(n) == "sub" and source in Flow.inputs(n) for n in path)


def _is_normed_row(path: Sequence[fx.Node]) -> bool:
    """Whether a linear branch begins with a norm and goes through three convolutions (the local
    relations of UniFormer): no more than two are merged into one, and those have norms behind them.
    """
    return name_of(path[0]) in NORMS and _weights(path) > 2


def _start(terms: Sequence[fx.Node], flow: Flow) -> tuple[fx.Node, fx.Node] | str:
    """The value that a block starts from and the term that carries it on, or why there is none."""
    direct = [t for t in terms if all(flow.reaches(t, other) for other in terms)]
    if direct:
        return direct[0], direct[0]
    meet = flow.common_dominator(terms)
    if meet is None:
        return "its terms come from different inputs"
    if any(name_of(user) == "part" for user in meet.users):
        return PARTS
    paths = {t: flow.between(meet, t) for t in terms}
    plain = [t for t in terms if _is_projection(paths[t])]
    if len(plain) > 1:  # with a norm of its own it may be a branch
        plain = [t for t in plain if not any(bends(n) for n in paths[t])]
    elif not plain and len(terms) == 2:
        lighter, heavier = sorted((paths[t] for t in terms), key=_weights)
        less = _weights(lighter) < _weights(heavier)
        plain = [t for t in terms if paths[t] is lighter and less and _is_light(lighter)]
    return (meet, plain[0]) if len(plain) == 1 else NO_SHORTCUT


def _of_streams(
    add: fx.Node, terms: Sequence[fx.Node], flow: Flow, levels: Levels
) -> Residual | None:
    """The residual addition of a block that is given several values at once (octave convolution,
    the two streams of ResNet in ResNet): what the block makes of these without a bend and position
    by position carries one of them on.
    """
    call: Call = add.meta["call"]
    given = [n for n in call.inputs if n in flow.rank and levels.is_map(n)]
    if len(given) < 2:
        return None
    inside = {
        t: [n for n in flow.before(t) if n.meta.get("order", -1) >= call.start] for t in terms
    }
    plain = [
        t for t in terms if _is_projection(inside[t]) and not any(map(_looks_around, inside[t]))
    ]
    if len(plain) != 1 or any(name_of(n) in UPSAMPLING for n in inside[plain[0]]):
        return None  # what comes up from below is no shortcut (PAN's attention upsampling)
    source = _stream_of(plain[0], add, given, call, flow, levels)
    crosses = any(not flow.reaches(source, n) for n in given if n is not source)
    branches = [t for t in terms if t is not plain[0]]
    for term in branches:
        bent = any(bends(n) for n in inside[term])
        if not _weights(inside[term]) or not (bent or crosses):
            return None
        merges = any(name_of(n) in UPSAMPLING for n in inside[term])
        if merges and not flow.reaches(source, term):
            return None  # what another resolution gives (CoaT's parallel blocks)
    own = [flow.between(source, t) for t in branches if flow.reaches(source, t)]
    if not own or not all(_stays_up(source, path) for path in own):
        return None
    return Residual(add, source, plain[0], tuple(map(_unscaled, branches)))


def _of_a_pair(add: fx.Node, terms: Sequence[fx.Node], flow: Flow) -> Residual | None:
    """The residual addition of a block that is given two values and gives two, one of them with a
    function of the other added and the other as it is: positions may become channels on the way
    (the first of i-RevNet's).
    """
    call: Call = add.meta["call"]
    given = [n for n in call.inputs if n in flow.rank]
    if len(given) != 2 or len(call.outputs) != 2 or add not in call.outputs or len(terms) != 2:
        return None
    (other,) = (n for n in call.outputs if n is not add)
    for one, two in (given, given[::-1]):
        for kept, made in (terms, terms[::-1]):
            ways = [flow.between(one, kept), flow.between(two, made), flow.between(two, other)]
            carried = kept is one or ways[0]
            on = other is two or ways[2]
            mixed = flow.reaches(two, kept) or flow.reaches(one, made)
            if not carried or not on or mixed or any(map(is_weighted, ways[0] + ways[2])):
                continue
            if any(map(bends, ways[1])) and any(map(is_weighted, ways[1])):
                return Residual(add, two, kept, (_unscaled(made),))
    return None


def _stream_of(
    shortcut: fx.Node,
    add: fx.Node,
    given: Sequence[fx.Node],
    call: Call,
    flow: Flow,
    levels: Levels,
) -> fx.Node:
    """Of the values that a block is given the one that a shortcut carries on: where it is made of
    several, the one with the place among them, by resolution, that the sum has among the outputs.
    """
    carried = [n for n in given if flow.reaches(n, shortcut)]
    if len(carried) == 1 or shortcut in given:
        return shortcut if shortcut in given else carried[0]
    finest = sorted(carried, key=lambda n: levels.of[n] or 0)
    made = sorted({levels.of[n] or 0 for n in call.outputs if levels.is_map(n)})
    place = made.index(levels.of[add] or 0) if levels.of[add] in made else 0
    return finest[min(place, len(finest) - 1)]


def _looks_around(node: fx.Node) -> bool:
    """Whether a weighted operation looks at several positions."""
    spec = convolution_of(node)
    return spec is not None and max(spec.kernel) > 1


def _is_projection(path: Sequence[fx.Node]) -> bool:
    """Whether a path is linear but for one norm; what has two is an embedding of its own (TNT).

    A convolution of several positions of what another weighted operation made is a positional term
    beside attention (of the values), and carries no block's input on.
    """
    bent = [n for n in path if bends(n)]
    if len(bent) > 1 or any(name_of(n) not in NORMS for n in bent):
        return False
    worked = [convolution_of(n) for n in path if is_weighted(n)]
    return not any(s is not None and max(s.kernel) > 1 for s in worked[1:])


def _is_light(path: Sequence[fx.Node]) -> bool:
    """Whether a path is a projection with activations of its own: one step after another, and of
    these one at most that mixes channels, and one depthwise convolution. Where it steps down, it
    may do so along one axis after the other (clips: space, then time).
    """
    mixing: list[bool] = []
    for node in path:
        name = name_of(node)
        if len(Flow.inputs(node)) != 1 or is_pooled(node) or (mixing and name in POOLS):
            return False
        if bends(node) and name not in ACTIVATIONS | NORMS:
            return False
        if is_weighted(node):
            spec = convolution_of(node)
            spatial = spec is not None and max(spec.kernel) > 1
            if spec is not None and spatial and not spec.depthwise:
                return False
            mixing.append(spatial)
    acts = any(name_of(n) in ACTIVATIONS for n in path)
    strided = [s for n in path if (s := convolution_of(n)) is not None and max(s.stride) > 1]
    factored = len(strided) == len(mixing) == 2 and not any(mixing)
    return acts and (factored or len(mixing) == len(set(mixing)))


def _merges(
    source: fx.Node, path: Sequence[fx.Node], add: fx.Node, flow: Flow, levels: Levels
) -> str:
    """Why a branch brings a lower resolution to a higher one, or "" where it does not."""
    if all(name_of(n) not in UPSAMPLING for n in path):
        return ""
    if _stays_up(source, path):
        return "" if levels.work[source] else "its shortcut is the image: it ends no block"
    if _is_inside(source, path, add, flow, levels):
        return ""
    return "a term is upsampled: it merges resolutions"


def _stays_up(source: fx.Node, path: Sequence[fx.Node]) -> bool:
    """Whether a way from the source to a branch's end passes no upsampling: what comes from below
    is a gate, or joins what stayed up.
    """
    reached = {source}
    for node in path:
        up = name_of(node) in UPSAMPLING or is_pooled(node)
        if not up and not reached.isdisjoint(Flow.inputs(node)):
            reached.add(node)
    return path[-1] in reached


def _is_inside(
    source: fx.Node, path: Sequence[fx.Node], add: fx.Node, flow: Flow, levels: Levels
) -> bool:
    """Whether a block that is given the source alone goes down and up again inside, and the
    network goes as deep behind it.
    """
    at = levels.carried[add]
    below = max((level for n in path if (level := levels.carried[n]) is not None), default=at)
    if at is None or below is None or below <= at:
        return False
    calls = [call for call in add.meta["call"].chain() if call.parent is not None]
    if not any([n for n in call.inputs if n in flow.rank] == [source] for call in calls):
        return False
    behind = flow.nodes[flow.rank[add] + 1 :]
    return any((levels.of[n] or 0) >= below and flow.reaches(add, n) for n in behind)


def _couple(
    residual: Residual,
    found: dict[fx.Node, Residual],
    refused: dict[fx.Node, str],
    flow: Flow,
) -> None:
    """Finds the other addition of a pair: `a = a + f(b)`, where `b = b + g(a)` is the one at hand.

    All that is added to `b` is made of that other sum, which goes on beside it.
    """
    source = residual.source
    for branch in residual.branches:
        path = flow.between(source, branch)
        for node in reversed(path):
            terms = _terms(node) if _adds_values(node) and not _is_inner_sum(node) else []
            made = [t for t in terms if flow.reaches(source, t)]
            if len(terms) != 2 or len(made) != 1 or not _is_stream(node, source, path):
                continue
            (own,) = (t for t in terms if t is not made[0])
            function = flow.between(source, made[0])
            if refused.get(node) == PARTS and any(bends(n) for n in function):
                del refused[node]
                found[node] = Residual(node, source, own, (_unscaled(made[0]),))
            if node in found:
                found[residual.add] = replace(residual, source=node)
                return


def _is_stream(node: fx.Node, source: fx.Node, path: Sequence[fx.Node]) -> bool:
    """Whether a value is like the source, every way along a path passes it, and others use it."""
    return _carries(node, source, path) and not set(path).issuperset(node.users)


def _carries(node: fx.Node, source: fx.Node, path: Sequence[fx.Node]) -> bool:
    """Whether a value is like the source, and every way along a path passes it."""
    if node.meta["shape"] != source.meta["shape"]:
        return False
    reached = {source}
    for other in path:
        if other is not node and not reached.isdisjoint(Flow.inputs(other)):
            reached.add(other)
    return path[-1] not in reached


def own_matter(
    residuals: Iterable[Residual], refused: Container[fx.Node], flow: Flow
) -> set[fx.Node]:
    """Returns the additions inside of branches that are no steps of these: of gates, of attention,
    of parallel convolutions. What is like the block's input, and all of the branch passes, may be
    a block inside a long shortcut.
    """
    found: set[fx.Node] = set()
    for residual in residuals:
        for branch in residual.branches:
            path = flow.between(residual.source, branch)
            sums = [n for n in path if n in refused and n not in found]
            found.update(n for n in sums if not _carries(n, residual.source, path))
    return found


def _weights(path: Sequence[fx.Node]) -> int:
    return sum(is_weighted(n) for n in path)


def _normed(path: Sequence[fx.Node]) -> bool:
    """Whether a weightless branch is a normalised one (PoolFormer mixes tokens by pooling)."""
    return any(name_of(n) in NORMS for n in path)


def branch_kinds(residual: Residual, branch: fx.Node, flow: Flow) -> tuple[str, ...]:
    """Names the convolutions along a branch in order: `1x1`, `3x3`, `dw3x3`, `linear`.

    Convolutions on pooled maps (a squeeze-and-excite gate) are beside the branch and left out.
    """
    kinds = []
    size = _positions(branch)
    start = residual.add.meta["call"].start  # what is made of another stream has its own way
    path = flow.between(residual.source, branch) or [
        n for n in flow.before(branch) if n.meta.get("order", -1) >= start
    ]
    for node in path:
        if not is_weighted(node) or (_positions(node) == 1 and size > 1):
            continue
        spec = convolution_of(node)
        if spec is None:
            kinds.append("linear")
            continue
        name = "x".join(map(str, spec.kernel))
        kinds.append(f"dw{name}" if spec.depthwise and max(spec.kernel) > 1 else name)
    return tuple(kinds)


def is_pooled(node: fx.Node) -> bool:
    """Whether a value has one position: it stands beside the maps, as a gate does."""
    return _positions(node) == 1


def _positions(node: fx.Node) -> int:
    total = 1
    if node.meta["shape"] is None:  # one result of several (nn.MultiheadAttention's) tells
        return max((_positions(n) for n in node.users), default=0)
    for axis, size in enumerate(node.meta["shape"][1:], start=1):
        total *= 1 if axis in node.meta["axes"] else size
    return total
