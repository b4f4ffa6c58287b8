"""Value or operation -> the module whose forward is rewritten for it, or why none can be."""

from __future__ import annotations

import inspect
from collections.abc import Sequence

from torch import fx

from attnsurgeon.forwards.shallow import ShallowGraph
from attnsurgeon.planning.cutting.appearing import appearances, seen_in, within
from attnsurgeon.planning.cutting.graphs import graph_of
from attnsurgeon.planning.cutting.leaks import leaks, torn
from attnsurgeon.planning.cutting.modules import is_container, is_norm, norm_note, only_contains
from attnsurgeon.planning.cutting.rebuilders import inside_rebuilder, outside_rebuilders
from attnsurgeon.planning.place import Place, Refusal, where
from attnsurgeon.recording.record import Call, Event, Key, key_of
from attnsurgeon.sites.flow import Flow
from attnsurgeon.sites.survey import Survey, makes_alone


def rewritten_around(
    survey: Survey, node: fx.Node, before: bool, reasons: list[str], first: Call
) -> Place | None:
    """The innermost module whose forward can be rewritten around the operation; no norm, or
    else with a note. Why others cannot goes to `reasons`.
    """
    norm: Place | None = None
    for call, key in appearances(node, first):
        if only_contains(call.module):
            continue  # its forward is the container's; the boundary of its child is the place
        why = _unwritable(survey, call, node, [key])
        if not why and not before and _escapes(survey, call, node):
            why = f"others are given the value past {where(call)}, by a hook"
        if why:
            entering = None if before else _where_it_enters(survey, call, node, key)
            if entering is not None:
                return entering
            reasons.append(why)
            continue
        note = _note_of(survey, call, key)
        calls = len(survey.traced.calls[call.path])
        if not is_norm(call.module):
            return Place("retype", call.path, key, before, calls, note)
        norm = norm or Place("retype", call.path, key, before, calls, norm_note(call.path))
    return norm


def _where_it_enters(survey: Survey, call: Call, node: fx.Node, key: Key) -> Place | None:
    """The place before the one operation that takes a value, where the value itself is made on
    some of the ways through the forward only (a map that is cropped where it was padded).
    """
    graph = graph_of(survey, call)
    if isinstance(graph, Refusal) or not graph.holds(key) or not graph.misses(key):
        return None
    user = next(iter(node.users), node)
    if len(node.users) != 1 or user.meta["call"] is not call or _escapes(survey, call, node):
        return None
    if node in call.outputs or makes_alone(call, user) or leaks(survey, call, node):
        return None
    entered = key_of(call, user.meta["event"])
    inputs = Flow.inputs(user)
    if _unwritable(survey, call, user, [entered]) or any(
        len(made.all_input_nodes) != len(inputs) for made in graph.named(entered)
    ):
        return None
    calls = len(survey.traced.calls[call.path])
    note = _note_of(survey, call, entered)
    return Place("retype", call.path, entered, True, calls, note, operand=inputs.index(node))


def _note_of(survey: Survey, call: Call, key: Key) -> str:
    """What the user should know of a forward that carries attention at an operation."""
    graph = graph_of(survey, call)
    assert isinstance(graph, ShallowGraph)
    notes = []
    method = graph.methods.get(key, "forward")
    if method != "forward" and not method.startswith("_"):
        notes.append(f"only forward() of {where(call)} carries it, not {method}() alone")
    elif graph.structured and (call.parent is None or _takes_more(call)):
        notes.append(f"{where(call)} can then only be called as it was here")
    return "; ".join(filter(None, [*notes, _open_ways(survey, call)]))


def _takes_more(call: Call) -> bool:
    """Whether a forward takes arguments of any name: a trainer may hand on more of them."""
    given = inspect.signature(type(call.module).forward).parameters.values()
    return any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in given)


def _open_ways(survey: Survey, call: Call) -> str:
    """A note on the input sizes that a rewritten forward does not take."""
    graph = graph_of(survey, call)
    if isinstance(graph, Refusal) or not graph.open:
        return ""
    places = ", ".join(graph.open)
    return f"at input sizes that lead another way through {where(call)} ({places}) it then raises"


def place_beside(
    survey: Survey, node: fx.Node, others: Sequence[fx.Node], called: str
) -> Place | Refusal:
    """Finds the innermost forward in which the value and the others can all be seen.

    Args:
        survey: the analysed network.
        node: the value, or the operation.
        others: what is to be handed over beside it.
        called: what reasons call these.
    """
    if shared := torn(survey, node):
        return shared
    inner, shown = outside_rebuilders(node)
    if shown is None:
        return inside_rebuilder(inner)
    reasons: list[str] = []
    for call, key in appearances(node, shown):
        if why := _unwritable(survey, call, node, [key]):
            reasons.append(why)
            continue
        seen = [seen_in(call, other) for other in others]
        graph = graph_of(survey, call)
        assert isinstance(graph, ShallowGraph)
        if any(k is None or not graph.holds(k) for k in seen):
            reasons.append(f"{where(call)} does not see {called} beside it")
            continue
        calls = len(survey.traced.calls[call.path])
        note, named = _open_ways(survey, call), tuple(filter(None, seen))
        return Place("retype", call.path, key, False, calls, note, others=named)
    return Refusal("; ".join(reasons) or "no forward shows both values")


def place_of_operation(survey: Survey, node: fx.Node, edit: str) -> Place | Refusal:
    """Finds the forward in which the operation itself, and nothing more, can be edited."""
    shared = torn(survey, node)
    if shared and edit != "excite":
        return shared
    call: Call = node.meta["call"]
    if outside_rebuilders(node)[1] is not call:
        return inside_rebuilder(call)
    event: Event | Call = node.meta["event"]
    if makes_alone(call, node) and edit != "excite":
        assert call.parent is not None
        call, event = call.parent, call
    key = key_of(call, event)
    if why := _unwritable(survey, call, node, [key]):
        return Refusal(why)
    calls = len(survey.traced.calls[call.path])
    return Place("retype", call.path, key, False, calls, _open_ways(survey, call), edit=edit)


def _unwritable(survey: Survey, call: Call, node: fx.Node, keys: Sequence[Key]) -> str:
    """Why the forward of a call cannot be rewritten at these operations; "" if it can."""
    if is_container(call.module):
        return f"{where(call)} is a container whose children other code may walk over"
    if isinstance(call.module, fx.GraphModule):
        return f"{where(call)} is generated code, which recompile() would write anew"
    graph = graph_of(survey, call)
    if isinstance(graph, Refusal):
        return f"{where(call)} cannot be rewritten: {graph.reason}"
    if not all(graph.holds(key) for key in keys):
        return f"{where(call)} takes another way in training mode"
    if any(graph.misses(key) for key in keys):
        return f"{where(call)} takes another way at other input sizes"
    if leaks(survey, call, node):
        return f"{where(call)} changes its argument in place, and others go on with it"
    return ""


def _escapes(survey: Survey, call: Call, node: fx.Node) -> bool:
    """Whether code outside of a call goes on with a value that the call does not return."""
    if node in call.outputs or call.parent is None:
        return False
    users = any(not within(call, user) for user in node.users)
    return users or node in survey.traced.root.outputs
