"""Flow -> the trunk: the values that the work on the way down passes; its stem, stages and head.

The trunk is found level by level, from the encoder's end up to the image. At one level it is what
every path passes that stays at this level and goes on down; what only runs beside it (a shortcut
over several levels, the image fed in again, another resolution that gives and takes) does not
break it. Stages are the levels from the stem's output on, counted from 1; a level is several
stages where a stage keeps the resolution of the one before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import fx

from attnsurgeon.recording.record import Call, Traced
from attnsurgeon.sites.descent import Descent
from attnsurgeon.sites.ending import Ending, find_ending
from attnsurgeon.sites.flow import (
    ACTIVATIONS,
    POOLS,
    Flow,
    convolution_of,
    is_weighted,
    name_of,
)
from attnsurgeon.sites.kept import with_kept
from attnsurgeon.sites.levels import NO_MAP, Levels, why_no_level
from attnsurgeon.sites.residuals import Residual
from attnsurgeon.sites.rises import descendants
from attnsurgeon.sites.stem import find_stem, last_before, lists_of_stages


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
    descent = Descent(flow, levels, residuals, ending.end)
    values = _without_insides(descent, flow, levels)
    if not values:
        return Trunk()
    stem = find_stem(traced, flow, levels, values, set(descent.nodes), residuals)
    if stem is not None and (
        not levels.work[stem]  # the image, laid out otherwise
        or 2 * levels.work[stem] > levels.work[values[-1]]  # it would be most of the network
        or _is_crossed(stem, values, ending, flow, levels)
        or _crosses_alone(stem, values, ending, flow, levels)
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
    ends, stages = _worked_at(ends, stages, descent.nodes, levels)
    for i, level in enumerate(stages[:-1]):
        if set(stages[i:-1]) - set(ending.exchanged):  # the lower ones do not go on beside it
            parted = ending.parted.get(level, ends[i])
            ends[i] = parted if flow.reaches(parted, values[-1]) else ends[i]
            continue
        beside = ending.exchanged.get(level, ends[i])
        if not flow.reaches(beside, ends[i]):  # the last that it gives, not what others are given
            ends[i] = beside
    ends.append(values[-1])
    ends, stages = with_kept(traced, flow, levels, values, ends, stages, residuals)
    # What enters the first block is not what ends a stage.
    if stem is not None and ends[0] is stem and len(ends) > 1:
        if levels.of[stem]:
            ends, stages = ends[1:], stages[1:]
        else:  # layers at the image's own resolution
            stem = None
    if stem is not None and len(ends) > 1 and _is_inside_first(traced, stem, ends, values, levels):
        ends, stages = ends[1:], stages[1:]
    return Trunk(tuple(values), stem, tuple(ends), tuple(stages), tuple(ends[:-1]), ending)


def _is_inside_first(
    traced: Traced,
    stem: fx.Node,
    ends: list[fx.Node],
    values: list[fx.Node],
    levels: Levels,
) -> bool:
    """Whether the first module of a list of stages begins with a layer before it steps down, and
    ends with what ends the second stage: the two are one (TextNet).
    """
    for row in lists_of_stages(traced, values, levels):
        first = row[0]
        inside = [first.start <= n.meta["order"] < first.end for n in ends[:2]]
        if stem.meta["order"] < first.start and all(inside) and first.returns(ends[1]):
            return True
    return False


def _worked_at(
    ends: list[fx.Node], stages: list[int], way: list[fx.Node], levels: Levels
) -> tuple[list[fx.Node], list[int]]:
    """The stages without those at whose resolution no weights work: a pooling before a stride."""
    worked = {levels.carried[n] for n in way if is_weighted(n)} | set(stages[-1:])
    ends = [end for end, level in zip(ends, stages, strict=False) if level in worked]
    return ends, [level for level in stages if level in worked]


def _without_insides(descent: Descent, flow: Flow, levels: Levels) -> list[fx.Node]:
    """The values of the way down, without those inside a step that only one of its ways passes."""
    values = descent.values
    for level in descent.partly:
        lower = next((n for n in values if levels.of[n] == level), None)
        if lower is None or lower is values[0]:
            continue
        entrance = _entrance(descent.steps[level], lower, values, flow, levels)
        values = values[: values.index(entrance) + 1] + values[values.index(lower) :]
    return values


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


def _crosses_alone(
    stem: fx.Node, values: list[fx.Node], ending: Ending, flow: Flow, levels: Levels
) -> bool:
    """Whether all that is at the image's own resolution is one residual unit that crosses to a
    decoder: a first stage (V-Net's).
    """
    there = [n for n in values if not levels.of[n]]
    if levels.of[stem] or there[-1] is not stem:
        return False
    risen = descendants(flow, [r.node for r in ending.rises])
    added = stem if name_of(stem) == "add" else Flow.inputs(stem)[0]
    return name_of(added) == "add" and any(user in risen for user in stem.users)


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
    stage, and ends with its own downsampling; if it goes on behind a pooling, and adds nothing, it
    is one unit (an inverted residual).
    """
    entrance = values[values.index(lower) - 1]
    level, new = levels.of[entrance], levels.of[lower]
    worked = [n for n in flow.nodes if levels.carried[n] == level and is_weighted(n)]
    working = [n.meta["order"] for n in worked]
    for call in step.meta["call"].chain():
        before = last_before(call.start, values)
        inside = [n for n in values if call.start <= n.meta["order"] < call.end]
        if before is None or levels.of[before] != level:
            break
        if any(levels.of[n] not in (level, new) for n in inside):
            break
        beside = (n for n in worked if before.meta["order"] < n.meta["order"] < call.start)
        if any(flow.reaches(n, entrance) for n in beside):
            break  # streams that meet in this module
        held = sum(call.start <= order <= entrance.meta["order"] for order in working)
        whole = before.meta["order"] < call.start and _is_one_unit(call, step, flow, levels)
        if not whole and held > sum(order < call.start for order in working):
            break
        if before.meta["order"] < entrance.meta["order"]:
            entrance = before
    return entrance


def _is_one_unit(call: Call, step: fx.Node, flow: Flow, levels: Levels) -> bool:
    """Whether a module pools between its layers, and holds no addition."""
    inside = [n for n in flow.nodes if call.start <= n.meta.get("order", -1) < call.end]
    later = any(is_weighted(n) and n.meta["order"] > step.meta["order"] for n in inside)
    pools = name_of(step) in POOLS or ((c := convolution_of(step)) is not None and c.depthwise)
    return pools and later and all(name_of(n) != "add" for n in inside)
