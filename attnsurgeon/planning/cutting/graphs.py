"""Survey + call -> the shallow graph of its module, or why there is none; made once a module."""

from __future__ import annotations

from attnsurgeon.forwards.alignment import Untraceable
from attnsurgeon.forwards.fingerprint import fingerprint
from attnsurgeon.forwards.shallow import ShallowGraph, shallow_graph
from attnsurgeon.planning.place import Refusal
from attnsurgeon.recording.record import Call
from attnsurgeon.sites.survey import Survey


def graph_of(survey: Survey, call: Call) -> ShallowGraph | Refusal:
    """The shallow graph of a called module, or why there is none."""
    known = survey.shallow
    if call.path not in known:
        known[call.path] = _graph(survey, survey.traced.calls[call.path])
    return known[call.path]


def _graph(survey: Survey, calls: list[Call]) -> ShallowGraph | Refusal:
    if survey.traced.device != "meta":  # values may decide, and are not compared
        return _traced(calls)
    alike, known = fingerprint(calls, survey.kinds), survey.alike
    if alike not in known:
        known[alike] = _traced(calls)
    return known[alike]


def _traced(calls: list[Call]) -> ShallowGraph | Refusal:
    try:
        return shallow_graph(calls)
    except Untraceable as why:
        return Refusal(str(why))
