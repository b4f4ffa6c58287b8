"""Levels -> what only hands a map on: a lateral or scoring convolution, that before a shuffle.

None of it is the encoder's: the encoder ends with what enters it.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import fx

from attnsurgeon.recording.record import Traced
from attnsurgeon.sites.flow import (
    ACTIVATIONS,
    NORMS,
    SQUASHING,
    Flow,
    bends,
    calls_making,
    convolution_of,
    is_weighted,
    name_of,
    outermost_first,
    weighted_inside,
)
from attnsurgeon.sites.levels import Levels
from attnsurgeon.sites.residuals import Residual

_SHUFFLING = frozenset(["pixel_shuffle", "view", "reshape", "permute", "unflatten", "contiguous"])
_ASIDE = frozenset(["dropout", "contiguous", "view", "reshape", "permute", "transpose", "flatten"])


def without_projections(node: fx.Node, flow: Flow, levels: Levels, risen: set[fx.Node]) -> fx.Node:
    """Walks back over lateral and scoring convolutions, and the convolution of a pixel shuffle."""
    depth = levels.of[node]
    while True:
        entered = entering_projection(node, levels, to_output=not risen) or without_image(
            node, levels
        )
        if entered is None and risen:
            entered = entering_lateral(node)
        if entered is None:
            entered = _whole_of(node) or _image_made(node, levels)
        if entered is None or levels.of.get(entered) != depth or not levels.is_map(entered):
            return node
        if not levels.work[entered]:
            return node
        node = entered


def before_neck(
    traced: Traced, node: fx.Node, flow: Flow, levels: Levels, residuals: Sequence[Residual]
) -> fx.Node:
    """The backbone's last value where a neck begins at the deepest resolution with a module of its
    own kind that makes the value narrower (YOLOv7), or with convolutions that do so behind the last
    residual sum (YOLOv3, bridges of a U).
    """
    depth = levels.of[node]
    for call in calls_making(node):
        given = [n for n in call.inputs if levels.of.get(n) == depth and levels.is_map(n)]
        alike = [c for c in outermost_first(traced.root) if type(c.module) is type(call.module)]
        if call.parent is None or len(given) != 1 or len(alike) > 1 or weighted_inside(call) < 2:
            continue
        worked = [n for n in flow.before(given[0]) if is_weighted(n) and levels.of[n] == depth]
        if worked and channels_of(node) < channels_of(given[0]):
            node = given[0]
            break
    sums = {r.add for r in residuals if levels.of[r.add] == depth}
    chain = flow.dominators(node)
    last = next((n for n in reversed(chain) if n in sums), None)
    if last is None or last is node:
        return node
    after = [n for n in flow.between(last, node) if is_weighted(n)]
    if not after or channels_of(after[0]) >= channels_of(last):
        return node
    passed = [n for n in chain[chain.index(last) :] if n in (last, *last.users)]
    return [n for n in passed if n is last or name_of(n) in ACTIVATIONS][-1]


def _whole_of(node: fx.Node) -> fx.Node | None:
    """What was split into parts of which this is one, with its activation or without."""
    while name_of(node) in ACTIVATIONS | _ASIDE and len(inputs := Flow.inputs(node)) == 1:
        node = inputs[0]
    split = _main_input(node) if name_of(node) == "part" else None
    return _main_input(split) if split is not None else None


def _image_made(node: fx.Node, levels: Levels) -> fx.Node | None:
    """The sum with the image that an output is, given another range and without its border."""
    while len(inputs := Flow.inputs(node)) == 1:
        if name_of(node) not in ("getitem", "mul", "div", "add", "sub", "clamp"):
            return None
        node = inputs[0]
    return node if without_image(node, levels) is not None else None


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
    if entered is None or channels_of(passed) > channels_of(entered) or not _is_unit(node, passed):
        return None
    return entered


def channels_of(node: fx.Node) -> int:
    """Returns the number of channels, or 0 where it is not known."""
    axes = node.meta["axes"]
    return node.meta["shape"][next(iter(axes))] if len(axes) == 1 else 0


def _is_unit(node: fx.Node, convolution: fx.Node) -> bool:
    """Whether the convolution is not the last step of a larger module, which gives the value."""
    for call in convolution.meta["call"].chain():
        if call.parent is not None and node in call.outputs and weighted_inside(call) > 1:
            return False
    return True


def before_idle(node: fx.Node, flow: Flow, levels: Levels) -> fx.Node:
    """The last map of a resolution at which weights work: a pooling that only a classifier follows
    (VGG's last) is the classifier's.
    """
    way = flow.before(node)
    chain = [n for n in flow.dominators(node) if levels.is_map(n)]
    worked = {levels.carried[n] for n in way if is_weighted(n)}
    kept = [n for n in chain if levels.of[n] in worked]
    return kept[-1] if kept else node


def before_list(node: fx.Node, levels: Levels) -> fx.Node:
    """The map that was laid out as a list of positions, or the tokens that were turned channels
    first, for what only pools it: a mean, a covariance; else the value itself.
    """
    entered, rank = node, len(node.meta["shape"])
    while name_of(entered) in _ASIDE and len(inputs := Flow.inputs(entered)) == 1:
        entered = inputs[0]
        if not levels.is_map(entered) or levels.of[entered] != levels.of[node]:
            break
        turned = rank == 3 and (entered.meta["axes"], node.meta["axes"]) == ({2}, {1})
        if len(entered.meta["shape"]) > rank or turned:
            return entered
    return node


def before_layout(node: fx.Node, levels: Levels) -> fx.Node:
    """What a module was given that begins by laying it out otherwise (tokens as a map), of a value
    that is no more than this; else the value itself.
    """
    entered = node
    while name_of(entered) in _ASIDE and len(inputs := Flow.inputs(entered)) == 1:
        entered = inputs[0]
        if not levels.is_map(entered) or levels.of[entered] != levels.of[node]:
            break
        if any(call.parent is not None and entered in call.inputs
               for call in node.meta["call"].chain()):  # fmt: skip
            return entered
    return node


def before_asked(node: fx.Node, flow: Flow, asked: set[fx.Node]) -> fx.Node:
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


def before_bent_scores(node: fx.Node, flow: Flow, levels: Levels) -> fx.Node:
    """What enters the scores where a network ends with a pointwise convolution, normed and bent,
    that gives fewer channels than any map before it; else the value itself.
    """
    scores = node
    while name_of(scores) in ACTIVATIONS | NORMS | _ASIDE and (before := _main_input(scores)):
        scores = before
    entered = _main_input(scores) if is_weighted(scores) and is_pointwise(scores) else None
    if scores is node or node.users or entered is None or not levels.is_map(entered):
        return node
    before = [n for n in flow.dominators(entered) if levels.is_map(n) and levels.work[n]]
    fewer = all(channels_of(scores) < channels_of(n) for n in before)
    return entered if fewer and levels.of[entered] == levels.of[node] else node


def before_predictions(
    node: fx.Node, outputs: Sequence[fx.Node], flow: Flow, levels: Levels
) -> fx.Node:
    """The features that predictions are made from, where these are laid beside them to be made
    again (OpenPose): as many channels as the network gives in the end. Else the value itself.
    """
    widths = {channels_of(n) for n in outputs}
    for joined in flow.nodes:
        terms = Flow.inputs(joined)
        if name_of(joined) != "cat" or len(terms) < 2 or levels.of[joined] != levels.of[node]:
            continue
        if not flow.reaches(joined, node) or levels.work[joined] + 2 > levels.work[node]:
            continue
        made = [n for n in terms if is_weighted(n) and is_pointwise(n)]
        features = [n for n in terms if n not in made and all(flow.reaches(n, m) for m in made)]
        given = {channels_of(n) for n in made}
        again = made and (given <= widths or sum(map(channels_of, made)) in widths)
        if again and len(features) == 1 and len(made) + 1 == len(terms):
            (found,) = features
            return found if levels.is_map(found) and levels.work[found] else node
    return node


def before_head(node: fx.Node, outputs: Sequence[fx.Node], flow: Flow, levels: Levels) -> fx.Node:
    """What enters the module that makes a value on its way to the scores and gives no map but these
    (a head that looks around before it scores, as that of PSPNet), where most of the work is done
    before it; else the value itself.
    """
    for call in node.meta["call"].chain():
        if call.parent is None:
            break
        given = {n for n in call.inputs if levels.is_map(n)}
        made = [n for n in call.outputs if levels.of.get(n) is not None]
        scored = made and all(n in outputs or _is_last(n, levels) for n in made)
        if len(given) != 1 or node in made or not scored:
            continue
        (entered,) = given
        inside = levels.work[node] - levels.work[entered]
        around = any(is_weighted(n) and not is_pointwise(n) for n in flow.between(entered, node))
        short = 2 * inside < levels.work[entered]
        if levels.of[entered] == levels.of[node] and around and short:
            node = entered
    return node


def _is_last(node: fx.Node, levels: Levels) -> bool:
    """Whether no weights work on what is made of a value."""
    seen, todo = {node}, [node]
    while todo:
        new = [n for n in todo.pop().users if n not in seen]
        if any(map(is_weighted, new)):
            return False
        seen.update(new)
        todo += new
    return True


def before_flow(traced: Traced, node: fx.Node, flow: Flow, levels: Levels) -> fx.Node:
    """What enters a prediction of few channels that is raised (a flow); and of what is made of two
    runs of one network laid side by side, what its first run gave. Else the value itself.
    """
    if is_weighted(node) and (entered := _main_input(node)) is not None:
        before = [n for n in flow.dominators(entered) if levels.is_map(n) and levels.work[n]]
        fewer = before and all(4 * channels_of(node) <= channels_of(n) for n in before)
        if fewer and levels.of.get(entered) == levels.of[node]:
            node = entered
    for joined in flow.dominators(node):
        terms = [n for n in Flow.inputs(joined) if levels.is_map(n)]
        if len(terms) != 2 or len({levels.of[n] for n in (*terms, node)}) > 1:
            continue
        one, two = sorted(terms, key=flow.rank.__getitem__)
        runs = [call.path for call in one.meta["call"].chain() if len(traced.calls[call.path]) > 1]
        same = one.meta["event"].ordinal == two.meta["event"].ordinal
        alike = one.meta["call"].path == two.meta["call"].path in runs and same
        if alike and not flow.reaches(one, two) and levels.work[one] == levels.work[two]:
            return one
    return node


def behind_masks(nodes: list[fx.Node], levels: Levels) -> list[fx.Node]:
    """Values, of such as are multiplied by a squashed mask that has more work in it the mask: it is
    what the network makes (Conv-TasNet).
    """
    found = []
    for node in nodes:
        terms = Flow.inputs(node)
        masks = [n for n in terms if name_of(n) in SQUASHING | {"relu"}]
        if name_of(node) == "mul" and len(terms) == 2 and len(masks) == 1:
            (mask,) = masks
            (other,) = (n for n in terms if n is not mask)
            entered = _main_input(mask)
            same = levels.of.get(mask) == levels.of.get(other) == levels.of.get(node)
            if entered is not None and same and levels.work[mask] > 2 * levels.work[other] + 2:
                node = entered
        found.append(node)
    return found


def before_resized_tokens(node: fx.Node, flow: Flow, levels: Levels) -> fx.Node:
    """The map that tokens were laid out as, where that is handed on at a lower resolution by no
    more than plain convolutions (DPT); else the value itself.
    """
    chain = [n for n in flow.dominators(node) if levels.is_map(n)]
    above = [n for n in chain if (levels.of[n] or 0) < (levels.of[node] or 0)]
    if not above or len(node.meta["shape"]) < 4:
        return node
    way = flow.between(above[-1], node)
    tokens = any(len(n.meta["shape"]) == 3 and levels.of[n] == levels.of[above[-1]] for n in above)
    plain = not any(map(bends, way)) and sum(map(is_weighted, way)) < 3
    return without_projections(above[-1], flow, levels, {node}) if tokens and plain else node


def before_parallel(node: fx.Node, flow: Flow, levels: Levels) -> fx.Node:
    """What enters convolutions of several dilations side by side, where a way up begins with what
    they make together; else the value itself.
    """
    terms = _side_by_side(node)
    entered = flow.common_dominator(terms) if len(terms) > 2 else None
    if entered is None or entered in terms or levels.of.get(entered) != levels.of[node]:
        return node
    ways = [[s for n in flow.between(entered, t) if (s := convolution_of(n))] for t in terms]
    spread = {s.dilation for way in ways for s in way if max(s.kernel) > 1}
    short = all(len(way) == 1 for way in ways)
    return entered if short and len(spread) > 2 and levels.is_map(entered) else node


def _side_by_side(node: fx.Node) -> list[fx.Node]:
    """The terms of a sum of several, or of a concatenation; the value itself of any other."""
    terms = Flow.inputs(node)
    if name_of(node) == "sum" and len(terms) == 1 and name_of(terms[0]) == "stack":
        return Flow.inputs(terms[0])
    if name_of(node) not in ("add", "cat"):
        return [node]
    sums = [_side_by_side(n) if name_of(node) == name_of(n) == "add" else [n] for n in terms]
    return [n for inner in sums for n in inner]


def before_scores(node: fx.Node, flow: Flow, levels: Levels) -> fx.Node:
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
    narrower = entered is not None and channels_of(scores) < channels_of(entered)
    if normed is not None and not (narrower and _is_unit(normed, scores)):
        return node  # a wider map, or the last step of a block (an inverted residual's)
    chain = [n for n in flow.dominators(scores)[:-1] if levels.is_map(n)]
    same = [n for n in chain if levels.of[n] == levels.of[node]]
    return same[-1] if same else node
