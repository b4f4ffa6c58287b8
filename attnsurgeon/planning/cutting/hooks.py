"""Value -> the module on whose boundary a hook meets it."""

from __future__ import annotations

from dataclasses import replace

from torch import fx

from attnsurgeon.planning.cutting.appearing import makers, within
from attnsurgeon.planning.cutting.leaks import keeps, leaks
from attnsurgeon.planning.cutting.modules import forgets, is_norm, is_script, norm_note, walks
from attnsurgeon.planning.cutting.rebuilders import outside_rebuilders
from attnsurgeon.planning.place import Place, Refusal
from attnsurgeon.recording.memory import changes_later
from attnsurgeon.recording.record import Call
from attnsurgeon.sites.survey import Survey, makes_alone


def hook_after(survey: Survey, node: fx.Node, first: Call, reasons: list[str]) -> Place | None:
    """The best hook: on a maker that is no norm, on the one taker, on a norm; the same of
    what runs several times, where it serves all of its runs. Why others cannot goes to `reasons`.
    """
    possible = [c for c in makers(node, first) if not walks(c.module)]
    for call in [c for c in possible if leaks(survey, c, node)]:
        reasons.append(f"{call.path} works in place, and others may go on with its argument")
        possible.remove(call)
    for call in list(possible):
        if is_script(call.module):
            reasons.append(f"{call.path} is a script, and takes no module")
        elif forgets(call.module):
            reasons.append(f"copies of {call.path} are made anew, and would lose it")
        else:
            continue
        possible.remove(call)
    once = [c for c in possible if _runs(survey, c) == 1]
    several = [c for c in possible if _runs(survey, c) > 1]
    for group, norms in ((once, False), (once, True), (several, False), (several, True)):
        for call in group:
            if is_norm(call.module) == norms:
                note = norm_note(call.path) if norms else ""
                return Place("output-hook", call.path, None, False, _runs(survey, call), note)
        taker = _taker(survey, node, norms) if group is once else None
        if taker is not None:
            note = norm_note(taker.path) if norms else ""
            return Place("input-hook", taker.path, None, True, 1, note)
    return None


def hook_before(survey: Survey, target: fx.Node, node: fx.Node) -> Place | None:
    """The hook on the module that is the operation `target`, where `node` goes into it."""
    call: Call = target.meta["call"]
    once = _runs(survey, call) == 1 and not (is_script(call.module) or forgets(call.module))
    if makes_alone(call, target) and call.takes(node) and once and keeps(survey, call, node):
        return Place("input-hook", call.path, None, True, 1)
    return None


def tap(survey: Survey, node: fx.Node) -> Place | Refusal:
    """Finds a module at whose boundary a value can be looked at."""
    _, shown = outside_rebuilders(node)
    reasons: list[str] = []
    place = None if shown is None else hook_after(survey, node, shown, reasons)
    if place is not None and place.calls == 1:
        return replace(place, copies=changes_later(node, survey.memory))
    return Refusal("; ".join(reasons) or "no module boundary shows the feature map")


def _runs(survey: Survey, call: Call) -> int:
    return len(survey.traced.calls[call.path])


def _taker(survey: Survey, node: fx.Node, norms: bool) -> Call | None:
    """The only module that takes the value, as its first argument, and is called once."""
    for calls in survey.traced.calls.values():
        call = calls[0]
        if not call.takes_first(node) or call.start <= node.meta["order"] or len(calls) > 1:
            continue
        if walks(call.module) or is_script(call.module) or forgets(call.module):
            continue
        if is_norm(call.module) and not norms:
            continue
        if call.returns(node):
            if call.path in survey.handed_on:
                return call
            continue
        inside = all(within(call, user) for user in node.users)
        if inside and not any(node in outer.outputs for outer in call.chain()):
            return call if keeps(survey, call, node) else None
    return None
