"""Value -> would somebody go on without the attention? Memory that is shared, changes in place.

Attention makes a new tensor: who holds the old one, or a view of it, would miss the attention and
every change in place that comes after it.
"""

from __future__ import annotations

from torch import fx, nn

from attnsurgeon.planning.cutting.appearing import within
from attnsurgeon.planning.cutting.graphs import graph_of
from attnsurgeon.planning.cutting.modules import only_contains
from attnsurgeon.planning.place import Refusal
from attnsurgeon.recording.memory import torn_from
from attnsurgeon.recording.record import Call, key_of
from attnsurgeon.sites.survey import Survey, value_path


def torn(survey: Survey, node: fx.Node) -> Refusal | None:
    """Why a value cannot become a tensor of its own: a change in place has to reach others."""
    other = torn_from(node, survey.memory)
    if other is None:
        return None
    name = value_path(other) if other.meta.get("event") is not None else "an argument"
    return Refusal(
        f"it shares its memory with {name}, which is used after it, and one of the two is "
        "changed in place"
    )


def leaks(survey: Survey, call: Call, node: fx.Node) -> bool:
    """Whether the value is an argument, changed in place, that code outside of the call goes on
    with.
    """
    states = [node]
    while (later := _changed_into(states[-1])) is not None:
        states.append(later)
    users = [user for state in states for user in state.users]
    while node.meta.get("over") is not None:
        node = node.meta["over"]
        for outer in call.chain():
            if node not in outer.inputs or all(within(outer, user) for user in users):
                continue
            if not outer.returns(states[-1]) or _dropped(survey, outer):
                return True
    return False


def keeps(survey: Survey, call: Call, node: fx.Node) -> bool:
    """Whether nobody outside sees what the call does to its argument in place."""
    changed = _changed_into(node)
    return changed is None or not within(call, changed) or not leaks(survey, call, changed)


def _changed_into(node: fx.Node) -> fx.Node | None:
    """What the value's tensor becomes by the next change in place."""
    return next((user for user in node.users if user.meta.get("over") is node), None)


def _dropped(survey: Survey, call: Call) -> bool:
    """Whether the caller may go on with the argument instead of the returned value."""
    parent = call.parent
    if parent is None:
        return False
    if isinstance(parent.module, nn.Sequential) and only_contains(parent.module):
        return False
    graph = graph_of(survey, parent)
    return isinstance(graph, Refusal) or key_of(parent, call) in graph.shadowed
