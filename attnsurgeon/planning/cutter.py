"""Survey + site -> Place or Refusal: how the network can be cut at this value.

    retype         the innermost module whose forward passes the value on gets new forward code
    output hook    a hook on the child whose output is the value
    input hook     a hook on the only module that the value goes into
    takeover       the module that is the operation hands its input to the attention

For insertions the first is preferred: it is seen by every tool that reads the forward. Containers
are never retyped (code that walks over them would meet the new child), nor modules that rebuild
themselves (`fuse`, `reparameterize`, ...), nor anything inside those. A replacement takes over a
module that is nothing but the operation; what is a function, or one module for several operations
of which some stay, is replaced in the forward that calls it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor, fx, nn

from attnsurgeon.forwards.alignment import Untraceable
from attnsurgeon.forwards.fingerprint import fingerprint
from attnsurgeon.forwards.modes import names_in
from attnsurgeon.forwards.retype import original_class
from attnsurgeon.forwards.shallow import ShallowGraph, shallow_graph
from attnsurgeon.planning.place import Place, Refusal, where
from attnsurgeon.planning.rebuilders import inside_rebuilder, outside_rebuilders
from attnsurgeon.recording.memory import changes_later, torn_from
from attnsurgeon.recording.record import Call, Event, Key, key_of
from attnsurgeon.sites.flow import Flow
from attnsurgeon.sites.survey import Survey, makes_alone, value_path

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_CHILDREN = frozenset(["children", "named_children", "_modules"])


@dataclass(eq=False)
class Cutter:
    """Decides about the sites of one survey; shallow graphs are made once a module."""

    survey: Survey

    def place(self, node: fx.Node, before: fx.Node | None = None) -> Place | Refusal:
        """Finds the best cut after `node`; with `before`, where `node` goes into `before`."""
        target = before if before is not None else node
        if target.meta.get("event") is None:
            return Refusal("it is made where no torch function can be seen")
        if torn := self._torn(target):
            return torn
        inner, shown = outside_rebuilders(target)
        if shown is None:
            return inside_rebuilder(inner)
        reasons: list[str] = []
        retype = self._retype(target, before is not None, reasons, shown)
        if isinstance(retype, Place) and not retype.note:
            return retype
        hook = (
            self._input_hook_of(before, node)
            if before is not None
            else self._hook(node, shown, reasons)
        )
        return hook or retype or Refusal("; ".join(reasons) or "no module boundary shows it")

    def place_with(self, node: fx.Node, others: Sequence[fx.Node]) -> Place | Refusal:
        """Finds the innermost forward in which the value and the others can all be seen."""
        if torn := self._torn(node):
            return torn
        inner, shown = outside_rebuilders(node)
        if shown is None:
            return inside_rebuilder(inner)
        reasons: list[str] = []
        for call, key in _appearances(node, shown):
            if why := self._unwritable(call, node, [key]):
                reasons.append(why)
                continue
            seen = [_seen_in(call, other) for other in others]
            graph = self.graph(call)
            assert isinstance(graph, ShallowGraph)
            if any(k is None or not graph.holds(k) for k in seen):
                reasons.append(f"{where(call)} does not see the block's input beside it")
                continue
            calls = len(self.survey.traced.calls[call.path])
            return Place("retype", call.path, key, False, calls, others=tuple(filter(None, seen)))
        return Refusal("; ".join(reasons) or "no forward shows both values")

    def place_of_operation(self, node: fx.Node, edit: str) -> Place | Refusal:
        """Finds the forward in which the operation itself, and nothing more, can be edited."""
        torn = self._torn(node)
        if torn and edit != "excite":
            return torn
        call: Call = node.meta["call"]
        if outside_rebuilders(node)[1] is not call:
            return inside_rebuilder(call)
        event: Event | Call = node.meta["event"]
        if makes_alone(call, node) and edit != "excite":
            assert call.parent is not None
            call, event = call.parent, call
        key = key_of(call, event)
        if why := self._unwritable(call, node, [key]):
            return Refusal(why)
        calls = len(self.survey.traced.calls[call.path])
        return Place("retype", call.path, key, False, calls, edit=edit)

    def takeover(self, node: fx.Node) -> Place | Refusal:
        """Says whether the module that makes the value can hand its input on instead."""
        if torn := self._torn(node):
            return torn
        call: Call = node.meta["call"]
        if outside_rebuilders(node)[1] is not call:
            return inside_rebuilder(call)
        value = call.inputs[0] if call.inputs else None
        if not makes_alone(call, node) or isinstance(call.module, _CONTAINERS):
            return Refusal("no module is this operation and nothing more")
        if value is None or not call.takes(value) or len(call.args) > 1 or call.kwargs:
            return Refusal(f"{where(call)} is given more than one value")
        if original_class(call.module) is not type(call.module):
            return Refusal(f"{where(call)} has attention inside already")
        if "forward" in call.module.__dict__:
            return Refusal(f"the forward of {where(call)} has been replaced on the object itself")
        if self._leaks(call, node):
            return Refusal(f"{where(call)} works in place, and others go on with its argument")
        return Place("takeover", call.path, None, False, len(self.survey.traced.calls[call.path]))

    def tap(self, node: fx.Node) -> Place | Refusal:
        """Finds a module at whose boundary a value can be looked at."""
        _, shown = outside_rebuilders(node)
        reasons: list[str] = []
        place = None if shown is None else self._hook(node, shown, reasons)
        if place is not None and place.calls == 1:
            changes = changes_later(node, self.survey.memory)
            return replace(place, copies=changes)
        return Refusal("; ".join(reasons) or "no module boundary shows the feature map")

    def _torn(self, node: fx.Node) -> Refusal | None:
        """Why a value cannot become a tensor of its own: a change in place has to reach others."""
        other = torn_from(node, self.survey.memory)
        if other is None:
            return None
        name = value_path(other) if other.meta.get("event") is not None else "an argument"
        return Refusal(
            f"it shares its memory with {name}, which is used after it, and one of the two is "
            "changed in place"
        )

    def _unwritable(self, call: Call, node: fx.Node, keys: Sequence[Key]) -> str:
        """Why the forward of a call cannot be rewritten at these operations; "" if it can."""
        if isinstance(call.module, _CONTAINERS):
            return f"{where(call)} is a container whose children other code may walk over"
        if isinstance(call.module, fx.GraphModule):
            return f"{where(call)} is generated code, which recompile() would write anew"
        graph = self.graph(call)
        if isinstance(graph, Refusal):
            return f"{where(call)} cannot be rewritten: {graph.reason}"
        if not all(graph.holds(key) for key in keys):
            return f"{where(call)} takes another way in training mode"
        if self._leaks(call, node):
            return f"{where(call)} changes its argument in place, and others go on with it"
        return ""

    def graph(self, call: Call) -> ShallowGraph | Refusal:
        """The shallow graph of a called module, or why there is none."""
        known = self.survey.shallow
        if call.path not in known:
            known[call.path] = self._graph(self.survey.traced.calls[call.path])
        return known[call.path]

    def _graph(self, calls: list[Call]) -> ShallowGraph | Refusal:
        if self.survey.traced.device != "meta":  # values may decide, and are not compared
            return _traced(calls)
        alike, known = fingerprint(calls, self.survey.kinds), self.survey.alike
        if alike not in known:
            known[alike] = _traced(calls)
        return known[alike]

    def _retype(self, node: fx.Node, before: bool, reasons: list[str], first: Call) -> Place | None:
        """The innermost module whose forward can be rewritten around the operation; no norm, or
        else with a note.
        """
        norm: Place | None = None
        for call, key in _appearances(node, first):
            if isinstance(call.module, _CONTAINERS) and not _own_forward(call.module):
                continue  # its forward is the container's; the boundary of its child is the place
            why = self._unwritable(call, node, [key])
            if not why and not before and self._escapes(call, node):
                why = f"others are given the value past {where(call)}, by a hook"
            if why:
                reasons.append(why)
                continue
            graph = self.graph(call)
            assert isinstance(graph, ShallowGraph)
            note = ""
            method = graph.methods.get(key, "forward")
            if method != "forward" and not method.startswith("_"):
                note = f"only forward() of {where(call)} carries it, not {method}() alone"
            elif graph.structured and call.parent is None:
                note = f"{where(call)} can then only be called as it was here"
            calls = len(self.survey.traced.calls[call.path])
            if not _is_norm(call.module):
                return Place("retype", call.path, key, before, calls, note)
            norm = norm or Place("retype", call.path, key, before, calls, _norm_note(call))
        return norm

    def _escapes(self, call: Call, node: fx.Node) -> bool:
        """Whether code outside of a call goes on with a value that the call does not return."""
        if node in call.outputs or call.parent is None:
            return False
        users = any(not _within(call, user) for user in node.users)
        return users or node in self.survey.traced.root.outputs

    def _hook(self, node: fx.Node, first: Call, reasons: list[str]) -> Place | None:
        """The best hook: on a maker that is no norm, on the one taker, on a norm; the same of
        what runs several times, where it serves all of its runs.
        """
        makers = [c for c in _makers(node, first) if not _walks(c.module)]
        for call in [c for c in makers if self._leaks(c, node)]:
            reasons.append(f"{call.path} works in place, and others may go on with its argument")
            makers.remove(call)
        once = [c for c in makers if self._runs(c) == 1]
        several = [c for c in makers if self._runs(c) > 1]
        for group, norms in ((once, False), (once, True), (several, False), (several, True)):
            for call in group:
                if _is_norm(call.module) == norms:
                    note = _norm_note(call) if norms else ""
                    return Place("output-hook", call.path, None, False, self._runs(call), note)
            taker = self._taker(node, norms) if group is once else None
            if taker is not None:
                note = _norm_note(taker) if norms else ""
                return Place("input-hook", taker.path, None, True, 1, note)
        return None

    def _runs(self, call: Call) -> int:
        return len(self.survey.traced.calls[call.path])

    def _taker(self, node: fx.Node, norms: bool = False) -> Call | None:
        """The only module that takes the value, as its first argument, and is called once."""
        for calls in self.survey.traced.calls.values():
            call = calls[0]
            if not call.takes_first(node) or call.start <= node.meta["order"] or len(calls) > 1:
                continue
            if _walks(call.module):
                continue
            if _is_norm(call.module) and not norms:
                continue
            if call.returns(node):
                if call.path in self.survey.handed_on:
                    return call
                continue
            inside = all(_within(call, user) for user in node.users)
            if inside and not any(node in outer.outputs for outer in call.chain()):
                return call if self._keeps(call, node) else None
        return None

    def _input_hook_of(self, target: fx.Node, node: fx.Node) -> Place | None:
        call: Call = target.meta["call"]
        once = len(self.survey.traced.calls[call.path]) == 1
        if makes_alone(call, target) and call.takes(node) and once and self._keeps(call, node):
            return Place("input-hook", call.path, None, True, 1)
        return None

    def _keeps(self, call: Call, node: fx.Node) -> bool:
        """Whether nobody outside sees what the call does to its argument in place."""
        changed = _changed_into(node)
        return changed is None or not _within(call, changed) or not self._leaks(call, changed)

    def _leaks(self, call: Call, node: fx.Node) -> bool:
        """Whether the value is an argument, changed in place, that outer code goes on with.

        Attention makes a new tensor: who holds the argument would miss the attention, and every
        change in place that comes after it.
        """
        states = [node]
        while (later := _changed_into(states[-1])) is not None:
            states.append(later)
        users = [user for state in states for user in state.users]
        while node.meta.get("over") is not None:
            node = node.meta["over"]
            for outer in call.chain():
                if node not in outer.inputs or all(_within(outer, user) for user in users):
                    continue
                if not outer.returns(states[-1]) or self._dropped(outer):
                    return True
        return False

    def _dropped(self, call: Call) -> bool:
        """Whether the caller may go on with the argument instead of the returned value."""
        parent = call.parent
        if parent is None:
            return False
        if isinstance(parent.module, nn.Sequential) and not _own_forward(parent.module):
            return False
        graph = self.graph(parent)
        return isinstance(graph, Refusal) or key_of(parent, call) in graph.shadowed


def _traced(calls: list[Call]) -> ShallowGraph | Refusal:
    try:
        return shallow_graph(calls)
    except Untraceable as why:
        return Refusal(str(why))


def _seen_in(call: Call, node: fx.Node) -> Key | None:
    """How a forward names a value that it is given or makes itself; None where it cannot."""
    nested = any(isinstance(value, (list, tuple, dict)) for value in call.args)
    tensors = [i for i, v in enumerate(call.args) if isinstance(v, Tensor) and not nested]
    for position, given in zip(tensors, call.inputs, strict=False):
        if given is node:
            return "input", str(position), 0
    return next((key for c, key in _appearances(node, call) if c is call), None)


def _norm_note(call: Call) -> str:
    return f"converting {call.path} (SyncBatchNorm, freezing) would drop it"


def _walks(module: nn.Module) -> bool:
    """Whether code walks over the children of a module, and would meet the attention."""
    code = getattr(original_class(module).forward, "__code__", None)
    named = _CHILDREN.intersection(names_in(code)) if code is not None else ()
    return isinstance(module, _CONTAINERS) or bool(named)


def _own_forward(module: nn.Module) -> bool:
    """Whether a container has a forward of its own (a DenseNet block is a ModuleDict)."""
    plain = {nn.Sequential.forward, nn.Module.forward}
    return original_class(module).forward not in plain


def _is_norm(module: nn.Module) -> bool:
    """Whether converters replace such modules: they carry running statistics or say norm."""
    return isinstance(module, (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm))


def _within(call: Call, node: fx.Node) -> bool:
    return call.start <= node.meta["order"] < call.end


def _changed_into(node: fx.Node) -> fx.Node | None:
    """What the value's tensor becomes by the next change in place."""
    return next((user for user in node.users if user.meta.get("over") is node), None)


def _appearances(node: fx.Node, first: Call) -> list[tuple[Call, Key]]:
    """The forwards in which the value appears, innermost first, and the operation there."""
    call: Call = node.meta["call"]
    found = [] if makes_alone(call, node) else [(call, key_of(call, node.meta["event"]))]
    if len(node.meta["event"].nodes) > 1:
        found = []  # one of several results: only a module boundary shows it alone
    while call.returns(node) and call.parent is not None:
        found.append((call.parent, key_of(call.parent, call)))
        call = call.parent
    allowed = list(first.chain())
    return [(c, k) for c, k in found if c in allowed]


def _makers(node: fx.Node, first: Call) -> list[Call]:
    """The calls whose only output is the value, innermost first, none inside a rebuilder."""
    makers = []
    call: Call | None = node.meta["call"]
    allowed = list(first.chain())
    while call is not None and call.returns(node):
        if call.parent is None or call.parent in allowed:
            makers.append(call)
        call = call.parent
    return makers


def input_of(node: fx.Node) -> fx.Node | None:
    """The value that an operation works on: its first input that depends on the data."""
    return next(iter(Flow.inputs(node)), None)
