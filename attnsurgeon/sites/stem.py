"""Trunk values -> the stem: what enters the first stage.

The first stage begins with the outermost module around the first block that comes back, as long as
the resolution stays; where no module comes back, with the first residual sum. A network that goes
down by plain convolutions alone has no stem: each of its resolutions is a stage.
"""

from __future__ import annotations

from collections.abc import Container, Hashable, Sequence

from torch import fx, nn

from attnsurgeon.recording.record import Call, Traced
from attnsurgeon.sites.flow import (
    ACTIVATIONS,
    Flow,
    calls_making,
    convolution_of,
    kind_of,
    name_of,
    weighted_inside,
)
from attnsurgeon.sites.levels import Levels
from attnsurgeon.sites.residuals import Residual


def find_stem(
    traced: Traced,
    flow: Flow,
    levels: Levels,
    values: list[fx.Node],
    way: set[fx.Node],
    residuals: Sequence[Residual],
) -> fx.Node | None:
    """Returns the value that enters the first stage; None where a block of several layers, or the
    first of plain stages, is given the image itself.

    Args:
        traced, flow, levels, residuals: of the network.
        values: of the trunk, in order.
        way: all that the trunk's last value is made of.
    """
    stem = _first_entrance(traced, flow, levels, values, way, residuals)
    if stem is None:
        return None
    stem = _before_separable(_whole_stem(traced, stem, values, levels, residuals), values, levels)
    ahead = [r for r in residuals if r.source in values and r.add in values
             and r.add.meta["order"] <= stem.meta["order"]]  # fmt: skip
    # Several blocks written out in one forward (Xception's entry) are no stem.
    return _before_step(ahead[0].source, values, levels) if len(ahead) > 1 else stem


def _first_entrance(
    traced: Traced,
    flow: Flow,
    levels: Levels,
    values: list[fx.Node],
    way: set[fx.Node],
    residuals: Sequence[Residual],
) -> fx.Node | None:
    """What enters the first block that comes back, and the modules around it at its resolution."""
    calls = [call for call in calls_in(traced.root) if call.parent]
    blocks = [call for call in calls if _is_block(call, values)]
    back = _coming_back(blocks)
    if back and _is_after_its_like(back[0], calls, values):
        return None
    inside_shortcut = not back
    if inside_shortcut:  # they are all inside one long shortcut
        blocks = [call for call in calls if _is_block(call, way)]
        back = _coming_back(blocks)
    for call in back:
        for outer in call.chain():  # a gate that comes back stands inside a block that does not
            if outer in blocks and last_before(outer.start, values) is not None:
                call = outer
        seen = values
        if inside_shortcut:
            seen = [n for n in flow.dominators(call.outputs[0]) if levels.is_map(n)]
        entrance = last_before(call.start, seen)
        if entrance is None and levels.work[call.outputs[0]] > 1:
            return None
        if entrance is None:  # one layer
            return call.outputs[0] if call.outputs[0] in values else None
        for outer in call.chain():
            before = last_before(outer.start, seen)
            if before is None or levels.of[before] != levels.of[entrance]:
                break
            entrance = before
        return _before_step(entrance, values, levels)
    entering = [r.source for r in residuals if r.source in values and r.add in values]
    return _before_step(entering[0], values, levels) if len(entering) > 1 else None


def _is_after_its_like(first: Call, calls: list[Call], values: list[fx.Node]) -> bool:
    """Whether a list of the kind of the first block, with one layer, is given the image: each of
    these is a stage (VGG-11 with a module a stage).
    """
    kind = kind_of(first.module)
    before = [c for c in calls if c.parent is first.parent and c.end <= first.start]
    return any(
        isinstance(kind, tuple)
        and kind_of(call.module) == kind
        and weighted_inside(call) == 1
        and last_before(call.start, values) is None
        for call in before
    )


def _whole_stem(
    traced: Traced,
    stem: fx.Node,
    values: list[fx.Node],
    levels: Levels,
    residuals: Sequence[Residual],
) -> fx.Node:
    """What the module gives that holds the stem inside, where the stages are modules of one kind
    behind it: it may have layers of the stages' own kinds (VoVNet, GCViT, FastViT). Several
    residual blocks are a stage of their own.
    """
    made = {n: i for i, n in enumerate(values)}
    for stages in lists_of_stages(traced, values, levels):
        first = stages[0]
        around = {outer.parent for outer in first.chain()}
        for call in stem.meta["call"].chain():
            given = [n for n in call.outputs if n in made]
            if call.parent not in around or not given or call.end > first.start:
                continue
            entered = last_before(first.start, values)
            later = (made.get(r.add, -1) for r in residuals)
            blocks = sum(made.get(stem, -1) < at <= made[given[-1]] for at in later)
            if made.get(stem, -1) < made[given[-1]] and entered is given[-1] and blocks < 2:
                return given[-1]
    return stem


def lists_of_stages(
    traced: Traced, values: list[fx.Node], levels: Levels, *, at_least: int = 3
) -> list[list[Call]]:
    """Returns modules of one kind beside each other that give trunk values of several levels."""
    found: dict[tuple[int, Hashable], list[Call]] = {}
    for call in calls_in(traced.root):
        if call.parent is not None and _is_block(call, values):
            found.setdefault((id(call.parent), kind_of(call.module)), []).append(call)
    return [calls for calls in found.values()
            if len({levels.of[call.outputs[0]] for call in calls}) >= at_least]  # fmt: skip


def _before_step(stem: fx.Node, values: list[fx.Node], levels: Levels) -> fx.Node:
    """The value before a strided convolution that is like those which begin the later stages, and
    stands in one list with them: it begins the first stage.
    """
    for unit in calls_making(stem):
        before = last_before(unit.start, values)
        if before is None or unit.parent is None or weighted_inside(unit) != 1:
            continue
        if (levels.of[before] or 0) >= (levels.of[stem] or 0):
            continue
        kind = kind_of(unit.module)
        later = [c for c in unit.parent.events if isinstance(c, Call) and c.start >= unit.end]
        if any(_are_alike(kind_of(c.module), kind) for c in later if _steps(c, values, levels)):
            return before
    return stem


def _before_separable(stem: fx.Node, values: list[fx.Node], levels: Levels) -> fx.Node:
    """The value before a depthwise convolution and its linear projection that stand as layers in
    the list in which the blocks follow: they are the first block (MNASNet's).
    """
    row = stem.meta["call"].parent
    later = [] if row is None else [c for c in row.events if isinstance(c, Call)]
    if not any(c.start > stem.meta["order"] and weighted_inside(c) > 1 for c in later):
        return stem
    before = [n for n in values if n.meta["order"] <= stem.meta["order"]]
    layers = [(i, c) for i, n in enumerate(before) if (c := convolution_of(n)) is not None]
    if len(layers) < 3 or any(before[i].meta["call"].parent is not row for i, _ in layers[-2:]):
        return stem
    (at, depthwise), (end, project) = layers[-2:]
    bent = [name_of(n) in ACTIVATIONS for n in before[at:]]
    plain = max(project.kernel) == 1 and any(bent[: end - at]) and not any(bent[end - at :])
    entered = before[at - 1]
    same = levels.of[entered] == levels.of[stem]
    return entered if depthwise.depthwise and plain and same else stem


def _steps(call: Call, values: list[fx.Node], levels: Levels) -> bool:
    """Whether a call is given a trunk value and makes one of a lower resolution."""
    before = last_before(call.start, values)
    made = [n for n in call.outputs if n in values]
    return before is not None and any((levels.of[n] or 0) > (levels.of[before] or 0) for n in made)


def _coming_back(blocks: list[Call]) -> list[Call]:
    """The blocks of which there are several: of one class, or one derived from the other."""
    kinds = [kind_of(call.module) for call in blocks]
    return [call for call, kind in zip(blocks, kinds, strict=True)
            if sum(_are_alike(kind, other) for other in kinds) > 1]  # fmt: skip


def _are_alike(one: Hashable, other: Hashable) -> bool:
    if isinstance(one, type) and isinstance(other, type):
        return issubclass(one, other) or issubclass(other, one)
    return one == other


def _is_block(call: Call, values: Container[fx.Node]) -> bool:
    """Whether a call is a unit of the trunk: it gives one of its values, made by two or more
    weighted operations, or by one whose result joins what it was given (a dense unit).
    """
    kind = type(call.module)
    if issubclass(kind, nn.Sequential) and kind is not nn.Sequential:
        plain = kind.forward is nn.Sequential.forward
        if plain:  # a convolution with its norm, written as a list of its own class
            return False
    if not call.outputs or call.outputs[0] not in values:
        return False
    made = call.outputs[0]
    joins = name_of(made) in ("add", "cat") and not {*Flow.inputs(made)}.isdisjoint(call.inputs)
    return weighted_inside(call) >= (1 if joins else 2)


def calls_in(call: Call) -> list[Call]:
    """Returns a call and all inside of it, outermost first, in the order in which they begin."""
    found = [call]
    for event in call.events:
        if isinstance(event, Call):
            found += calls_in(event)
    return found


def last_before(order: int, values: list[fx.Node]) -> fx.Node | None:
    """Returns the last of some values, given in order, that was made before a moment."""
    earlier = [n for n in values if n.meta["order"] < order]
    return earlier[-1] if earlier else None
