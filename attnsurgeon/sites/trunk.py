"""Flow -> the trunk: the values that the work on the way down passes; its stem, stages and head.

The trunk is found level by level, from the encoder's end up to the image. At one level it is what
every path passes that stays at this level and goes on down; what only runs beside it (a shortcut
over several levels, the image fed in again, another resolution that gives and takes) does not
break it. Stages are the levels from the stem's output on, counted from 1; a level is several
stages where convolutions are dilated in place of a step down.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

from torch import fx

from attnsurgeon.recording.record import Call, Traced
from attnsurgeon.sites.ending import Ending, find_ending, weighted_inside
from attnsurgeon.sites.flow import (
    ACTIVATIONS,
    Flow,
    calls_making,
    convolution_of,
    is_weighted,
    name_of,
)
from attnsurgeon.sites.levels import NO_MAP, Levels, why_no_level
from attnsurgeon.sites.residuals import Residual
from attnsurgeon.sites.rises import BESIDE, descendants
from attnsurgeon.sites.stem import calls_in, find_stem, last_before


@dataclass(frozen=True)
class Trunk:
    """The trunk of one network.

    Attributes:
        values: the trunk's feature maps in order; the last is the head.
        stem: the value that enters the first stage, or None.
        ends: the last trunk value of each stage, in order.
        levels: the level of each stage, in order.
        entering: the ends that another stage follows.
        ending: where the encoder ends and what follows it, or None.
    """

    values: tuple[fx.Node, ...] = ()
    stem: fx.Node | None = None
    ends: tuple[fx.Node, ...] = ()
    levels: tuple[int, ...] = ()
    entering: tuple[fx.Node, ...] = ()
    ending: Ending | None = None

    def stage_of(self, node: fx.Node, levels: Levels) -> int | None:
        """The number of the stage that a value's resolution is of: 0 before the first, None where
        it is none of them. Of several stages of one resolution it is the one it was made in.
        """
        level = levels.of.get(node)
        if level is None or not self.levels:
            return None
        if level < self.levels[0]:
            return 0
        found = [i for i, at in enumerate(self.levels) if at == level]
        made = [i for i in found if node.meta["order"] <= self.ends[i].meta["order"]]
        return (made or found[-1:])[0] + 1 if found else None

    def why_no_stage(self, node: fx.Node, traced: Traced, levels: Levels) -> str:
        """Why a value has no stage, or "" where it has one."""
        if self.stage_of(node, levels) is not None:
            return ""
        if not self.levels:
            return "no way down to a last map was found"
        if levels.of.get(node) is None:
            return why_no_level(node, traced) or NO_MAP
        return "no stage has its resolution"


def find_trunk(
    traced: Traced, flow: Flow, levels: Levels, residuals: Sequence[Residual] = ()
) -> Trunk:
    """Finds stem, stages and head."""
    ending = find_ending(traced, flow, levels, residuals)
    if ending is None:
        return Trunk()
    descent = _Descent(flow, levels, residuals, ending.end)
    values = _without_insides(descent, flow, levels)
    if not values:
        return Trunk()
    stem = find_stem(traced, flow, levels, values, set(descent.nodes), residuals)
    if stem is not None and (
        2 * levels.work[stem] > levels.work[values[-1]]  # it would be most of the network
        or _is_crossed(stem, values, ending, flow, levels)
    ):
        stem = None
    start = sum(n.meta["order"] < stem.meta["order"] for n in values) if stem is not None else 0
    if stem in values and _holds_nothing_else(values, stem, levels):
        start += 1
    ends: list[fx.Node] = []
    stages: list[int] = []
    for node in values[start:]:
        level = levels.of[node]
        assert level is not None
        if stages and level > stages[-1]:
            ends.append(_entrance(descent.steps[level], node, values, flow, levels))
        if not stages or level > stages[-1]:
            stages.append(level)
    for i, level in enumerate(stages[:-1]):
        beside = ending.exchanged.get(level, ends[i])
        if not flow.reaches(beside, ends[i]):  # the last that it gives, not what others are given
            ends[i] = beside
    ends.append(values[-1])
    ends, stages = _with_dilated(traced, flow, levels, values, ends, stages)
    return Trunk(tuple(values), stem, tuple(ends), tuple(stages), tuple(ends[:-1]), ending)


def _without_insides(descent: _Descent, flow: Flow, levels: Levels) -> list[fx.Node]:
    """The values of the way down, without those inside a step that only one of its ways passes."""
    values = descent.values
    for level in descent.partly:
        lower = next((n for n in values if levels.of[n] == level), None)
        if lower is None or lower is values[0]:
            continue
        entrance = _entrance(descent.steps[level], lower, values, flow, levels)
        values = values[: values.index(entrance) + 1] + values[values.index(lower) :]
    return values


class _Descent:
    """The way down to one value, level by level.

    Attributes:
        values: the maps that it passes, in order.
        steps: of each level but the first, the operation that comes down to it.
        partly: the levels to which others come down beside it.
    """

    def __init__(
        self, flow: Flow, levels: Levels, residuals: Sequence[Residual], end: fx.Node
    ) -> None:
        self.flow, self.levels, self.residuals = flow, levels, residuals
        self.nodes = flow.before(end)
        self._known: dict[int | None, dict[fx.Node, fx.Node | None]] = {}
        self.values: list[fx.Node] = []
        self.steps: dict[int, fx.Node] = {}
        self.partly: list[int] = []
        target: fx.Node | None = end
        while target is not None:
            chain = self.chain(target)
            self.values = [n for n in chain if levels.is_map(n)] + self.values
            target = self._step(chain[0])

    def chain(self, target: fx.Node) -> list[fx.Node]:
        """What every path to a value passes at its level; other levels are as the image."""
        level = self.levels.carried[target]
        above = self._above(level)
        chain = [target]
        while (node := above.get(chain[-1])) is not None:
            chain.append(node)
        return chain[::-1]

    def _above(self, level: int | None) -> dict[fx.Node, fx.Node | None]:
        """Of each value of a level the last one that every path to it at this level passes.

        What comes back from another level joins the path that it left; where nothing else goes on,
        the path is what it came from.
        """
        if level in self._known:
            return self._known[level]
        above: dict[fx.Node, fx.Node | None] = {}
        back: set[fx.Node] = set()
        for node in self.nodes:
            inputs = Flow.inputs(node)
            if self.levels.carried[node] != level:
                continue
            if not inputs or any(self._enters(n, level) for n in inputs):
                above[node] = None
                continue
            same = [n for n in inputs if n in above and n not in back]
            if same:
                above[node] = reduce(lambda one, other: self._meet(one, other, above), same)
            else:
                back.add(node)
                above[node] = self._left(node, level)
        self._known[level] = above
        return above

    def _enters(self, node: fx.Node, level: int | None) -> bool:
        """Whether a value brings to a level what has not been there: it is of a higher one, and
        not all of it comes from this one.
        """
        at = self.levels.carried[node]
        if at is None or level is None or at >= level:
            return False
        return self._left(node, level) is None

    def _left(self, node: fx.Node, level: int | None) -> fx.Node | None:
        """The last value of a level that every path to `node` passes."""
        chain = self.flow.dominators(node)[:-1]
        return next((n for n in reversed(chain) if self.levels.carried[n] == level), None)

    def _meet(
        self,
        one: fx.Node | None,
        other: fx.Node | None,
        above: dict[fx.Node, fx.Node | None],
    ) -> fx.Node | None:
        rank = self.flow.rank
        while one is not other:
            if one is None or other is None:
                return None
            if rank[one] > rank[other]:
                one = above.get(one)
            else:
                other = above.get(other)
        return one

    def _step(self, first: fx.Node) -> fx.Node | None:
        """The value of a higher level that the first value of a level was made from.

        Of several it is the last one that all pass; where that leaves out more work than it
        keeps, some only run beside, and it is the one of the nearest resolution, if half of the
        work is in it, with the most work.
        """
        carried, work = self.levels.carried, self.levels.work
        level = carried[first]
        assert level is not None
        below = {first}
        sources: dict[fx.Node, fx.Node] = {}
        for node in reversed(self.flow.before(first)):
            if node not in below:
                continue
            for other in Flow.inputs(node):
                at = carried[other]
                if at is not None and at < level:
                    sources[other] = node
                else:
                    below.add(other)
        worked = [n for n in sources if work[n] and self._left(n, level) is None]
        if not worked:
            return None
        most = max(work[n] for n in worked)
        heavy = max(
            (n for n in worked if 2 * work[n] > most),
            key=lambda n: (carried[n] or 0, work[n], self.flow.rank[n]),
        )
        self.steps[level] = sources[heavy]
        heavy = self._entering(heavy, level)
        at = carried[heavy]
        above = self._above(at)
        common: fx.Node | None = heavy
        for other in worked:
            if carried[other] == at and other in above:
                common = self._meet(common, other, above)
        if common is None:
            self.partly.append(level)
            return heavy
        chain = self.chain(common)
        entered = max((work[n] for n in Flow.inputs(chain[0])), default=0)
        lost, kept = work[heavy] - work[common], work[common] - entered
        if lost <= max(kept, BESIDE):
            return common
        self.partly.append(level)
        return heavy

    def _entering(self, node: fx.Node, level: int) -> fx.Node:
        """What enters the residual block that comes down to a level, where the value is inside."""
        carried = self.levels.carried
        for residual in self.residuals:
            if carried[residual.add] != level or carried[residual.source] != carried[node]:
                continue
            if any(node in self.flow.between(residual.source, end) for end in residual.branches):
                return residual.source
        return node


def _is_crossed(
    stem: fx.Node, values: list[fx.Node], ending: Ending, flow: Flow, levels: Levels
) -> bool:
    """Whether values of several resolutions above a stem cross to a decoder, or such of two layers
    at the image's own: then these are stages (a plain U around residual blocks).
    """
    risen = descendants(flow, [r.node for r in ending.rises])
    above = {at: [n for n in values if levels.of[n] == at] for n in values
             if (at := levels.of[n]) is not None and at < (levels.of[stem] or 0)}  # fmt: skip
    crossed = set()
    for node in risen:
        for given in Flow.inputs(node):
            at = levels.of[given]
            if at in above and given not in risen and any(
                flow.reaches(n, given) for n in above[at]
            ):  # fmt: skip
                crossed.add(at)
    return len(crossed) > 1 or any(not at and _units(above[at]) > 1 for at in crossed)


def _units(values: list[fx.Node]) -> int:
    return sum(name_of(n) in ACTIVATIONS for n in values)


def _holds_nothing_else(values: list[fx.Node], stem: fx.Node, levels: Levels) -> bool:
    """Whether the stem's output is alone at its resolution, so that no stage is there; at the
    image's own resolution two units are one.
    """
    there = [n for n in values if levels.of[n] == levels.of[stem]]
    short = _units(there) < 2 or bool(levels.of[stem])
    return there[-1] is stem and short and stem is not values[-1]


def _entrance(
    step: fx.Node, lower: fx.Node, values: list[fx.Node], flow: Flow, levels: Levels
) -> fx.Node:
    """The trunk value that enters the outermost module which only makes this one step down.

    A module in which most of the upper stage's work is done makes more than the step: it is the
    stage, and ends with its own downsampling.
    """
    entrance = values[values.index(lower) - 1]
    level, new = levels.of[entrance], levels.of[lower]
    working = [n.meta["order"] for n in flow.nodes
               if levels.carried[n] == level and is_weighted(n)]  # fmt: skip
    for call in step.meta["call"].chain():
        before = last_before(call.start, values)
        inside = [n for n in values if call.start <= n.meta["order"] < call.end]
        if before is None or levels.of[before] != level:
            break
        if any(levels.of[n] not in (level, new) for n in inside):
            break
        held = sum(call.start <= order <= entrance.meta["order"] for order in working)
        if held > sum(order < call.start for order in working):
            break
        if before.meta["order"] < entrance.meta["order"]:
            entrance = before
    return entrance


def _with_dilated(
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
