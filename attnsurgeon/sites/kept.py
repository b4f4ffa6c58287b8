"""Trunk values -> stages that keep the resolution of the stage before them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx

from attnsurgeon.recording.record import Call, Traced
from attnsurgeon.sites.flow import Flow, calls_making, convolution_of, weighted_inside
from attnsurgeon.sites.levels import Levels
from attnsurgeon.sites.stem import calls_in, last_before


def with_dilated(
    traced: Traced,
    flow: Flow,
    levels: Levels,
    values: list[fx.Node],
    ends: list[fx.Node],
    stages: list[int],
) -> tuple[list[fx.Node], list[int]]:
    """Adds the stages that keep their resolution by dilation.

    Such a stage begins with a module that dilates its convolutions at least twice as much as those
    before it at this level, of which there are some, and changes the channels: once, not with every
    module of its kind as layers do that concatenate.
    """
    found = dict(zip(ends, stages, strict=True))
    spatial = [(n, spread) for n in values[-1:] and flow.before(values[-1])
               if (spread := _dilation(n)) and levels.of[n] is not None]  # fmt: skip
    if all(spread == 1 for _, spread in spatial):
        return ends, stages
    steps = [step for call in calls_in(traced.root) if (step := _step(call, values, levels))]
    dilating = [step for step in steps if step.level in stages and _dilates(step, spatial, levels)]
    for step in dilating:
        if any(other.widens for other in _behind(step, steps) if other not in dilating):
            continue
        before = _before_undilated(step.before, step.call, values, levels)
        near = any(levels.work[n] == levels.work[before] for n in found if n is not values[-1])
        if _width(before) != _width(step.after) and not near:
            found[before] = step.level
    order = sorted(found, key=lambda n: n.meta["order"])
    return order, [found[n] for n in order]


@dataclass(frozen=True)
class _Step:
    """A module on the trunk that keeps the level: what enters it, and what it makes of that."""

    call: Call
    before: fx.Node
    after: fx.Node
    level: int

    @property
    def widens(self) -> bool:
        return _width(self.before) != _width(self.after)


def _step(call: Call, values: list[fx.Node], levels: Levels) -> _Step | None:
    before = last_before(call.start, values)
    made = [n for n in values if call.start <= n.meta["order"] < call.end]
    if before is None or not made or call.parent is None or not call.returns(made[-1]):
        return None
    level = levels.of[before]
    if level is None or any(levels.of[n] != level for n in made):
        return None
    return _Step(call, before, made[-1], level)


def _dilates(step: _Step, spatial: list[tuple[fx.Node, int]], levels: Levels) -> bool:
    """Whether a module dilates at least twice as much as what is before it at its level."""
    here = [(n.meta["order"], spread) for n, spread in spatial if levels.of[n] == step.level]
    inside = [s for order, s in here if step.call.start <= order < step.call.end]
    outside = [s for order, s in here if order < step.call.start]
    return bool(inside and outside) and max(inside) >= 2 * max(outside)


def _behind(step: _Step, steps: list[_Step]) -> list[_Step]:
    """The next module of its kind in the same list, at its level."""
    kind, parent = type(step.call.module), step.call.parent
    later = [s for s in steps if s.call.parent is parent and s.call.start >= step.call.end]
    alike = [s for s in later if type(s.call.module) is kind and s.level == step.level]
    return sorted(alike, key=lambda s: s.call.start)[:1]


def _before_undilated(
    before: fx.Node, call: Call, values: list[fx.Node], levels: Levels
) -> fx.Node:
    """What enters the unit ahead of a dilated one, in the same list, where that changes the width:
    the stride that was taken away stood in it.
    """
    for unit in calls_making(before):
        entered = last_before(unit.start, values)
        if entered is None or unit.parent is not call.parent or weighted_inside(unit) < 2:
            continue
        if levels.of[entered] == levels.of[before] and _width(entered) != _width(before):
            return entered
    return before


def _dilation(node: fx.Node) -> int:
    """How far a convolution of several positions spreads them; 0 for every other operation."""
    spec = convolution_of(node)
    return max(spec.dilation) if spec is not None and max(spec.kernel) > 1 else 0


def _width(node: fx.Node) -> int:
    (axis,) = node.meta["axes"]
    return node.meta["shape"][axis]
