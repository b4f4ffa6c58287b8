"""Trunk values -> stages that keep the resolution of the stage before them.

They are known by what else begins a stage: convolutions are dilated in place of the step down, or
a list of modules of one kind, of which others step down, goes on with one that doubles the channels
as a projecting residual block does (networks for re-identification; BagNet).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import fx

from attnsurgeon.recording.record import Call, Traced
from attnsurgeon.sites.flow import Flow, calls_making, convolution_of, is_weighted, weighted_inside
from attnsurgeon.sites.levels import Levels
from attnsurgeon.sites.residuals import Residual
from attnsurgeon.sites.stem import calls_in, last_before, lists_of_stages


def with_kept(
    traced: Traced,
    flow: Flow,
    levels: Levels,
    values: list[fx.Node],
    ends: list[fx.Node],
    stages: list[int],
    residuals: Sequence[Residual],
) -> tuple[list[fx.Node], list[int]]:
    """Returns ends and levels of the stages with those that keep their resolution."""
    found = dict(zip(ends, stages, strict=True))
    steps = [step for call in calls_in(traced.root) if (step := _step(call, values, levels))]
    found |= _dilated(flow, levels, values, steps, found)
    found |= _doubled(traced, flow, levels, values, steps, residuals, found)
    order = sorted(found, key=lambda n: n.meta["order"])
    return order, [found[n] for n in order]


def _doubled(
    traced: Traced,
    flow: Flow,
    levels: Levels,
    values: list[fx.Node],
    steps: list[_Step],
    residuals: Sequence[Residual],
    known: Mapping[fx.Node, int],
) -> dict[fx.Node, int]:
    """What enters the modules of a list of stages that double the channels and nothing else."""
    found: dict[fx.Node, int] = {}
    for row in lists_of_stages(traced, values, levels, at_least=2):
        for step in steps:
            if step.call not in row[1:] or step.level not in known.values():
                continue
            inside = [r for r in residuals if _is_in(r.add, step.call)]
            ahead = row[row.index(step.call) - 1]
            if not inside or step.before not in ahead.outputs:
                continue
            shortcut = flow.between(inside[0].source, inside[0].shortcut)
            if _width(step.after) >= 2 * _width(step.before) and any(map(is_weighted, shortcut)):
                found[step.before] = step.level
    return found


def _is_in(node: fx.Node, call: Call) -> bool:
    return call.start <= node.meta["order"] < call.end


def _dilated(
    flow: Flow,
    levels: Levels,
    values: list[fx.Node],
    steps: list[_Step],
    known: Mapping[fx.Node, int],
) -> dict[fx.Node, int]:
    """What enters the stages that keep their resolution by dilation.

    Such a stage begins with a module that dilates its convolutions at least twice as much as those
    before it at this level, of which there are some, and changes the channels: once, not with every
    module of its kind as layers do that concatenate.
    """
    found: dict[fx.Node, int] = {}
    spatial = [(n, spread) for n in values[-1:] and flow.before(values[-1])
               if (spread := _dilation(n)) and levels.of[n] is not None]  # fmt: skip
    if all(spread == 1 for _, spread in spatial):
        return {}
    at = set(known.values())
    dilating = [step for step in steps if step.level in at and _dilates(step, spatial, levels)]
    for step in dilating:
        if any(other.widens for other in _behind(step, steps) if other not in dilating):
            continue
        before = _before_undilated(step.before, step.call, values, levels)
        ends = [n for n in (*known, *found) if n is not values[-1]]
        near = any(levels.work[n] == levels.work[before] for n in ends)
        if (
            _width(before) != _width(step.after)
            and not near
            and not _begins(before, values, levels)
        ):
            found[before] = step.level
    return found


def _begins(node: fx.Node, values: list[fx.Node], levels: Levels) -> bool:
    """Whether a value is made by the very operation that comes down to its level: its block goes on
    with a dilated one.
    """
    above = [levels.work[n] for n in values if (levels.of[n] or 0) < (levels.of[node] or 0)]
    return levels.work[node] - max(above, default=0) < 2


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
