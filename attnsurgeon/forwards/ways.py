"""Call -> the graphs of its module's forward, one for each way that sizes lead through it.

The first is the way of the record. At each decision by a size the other way is traced too: where
it only raises, the test raises the same; where it goes on, it is a way of its own; where it cannot
be followed, the test raises (`decisions.py`).
"""

from __future__ import annotations

import dis
from collections.abc import Sequence
from dataclasses import dataclass
from operator import getitem
from types import TracebackType

import torch
from torch import fx

from attnsurgeon.forwards.alignment import Untraceable
from attnsurgeon.forwards.decisions import Decision, Raised
from attnsurgeon.forwards.running import reads_size
from attnsurgeon.forwards.sizes_that_turn import sizes_that_turn
from attnsurgeon.forwards.symbolic import ShallowTracer
from attnsurgeon.forwards.tracing import traced
from attnsurgeon.forwards.whereabouts import is_foreign
from attnsurgeon.recording.record import Call

_MOST = 16  # ways; each further decision may double them


@dataclass(frozen=True)
class Ways:
    """The ways through one forward in one mode.

    Attributes:
        graphs: of each; the first is that of the record.
        open: where a decision leads elsewhere that could not be followed, as "block.py:31".
        tracer: of the first.
    """

    graphs: tuple[fx.Graph, ...]
    open: tuple[str, ...]
    tracer: ShallowTracer


def ways_through(call: Call, structured: bool, check: bool, *, leave_out: bool = False) -> Ways:
    """Traces all ways through the forward of a called module.

    Raises:
        Untraceable: the recorded one cannot be traced, with the reason.
    """
    tracer = ShallowTracer(call, structured, check, leave_out=leave_out)
    graph = traced(tracer, call)
    if not tracer.decisions:
        return Ways((graph,), (), tracer)
    return _Exploring(call, structured).all(tracer, graph)


class _Exploring:
    """Follows the ways off a first one."""

    def __init__(self, call: Call, structured: bool) -> None:
        self.call = call
        self.structured = structured
        self.found: list[tuple[ShallowTracer, fx.Graph]] = []
        self.raised: dict[tuple[bool, ...], Raised] = {}
        self.open: dict[str, None] = {}

    def all(self, tracer: ShallowTracer, graph: fx.Graph) -> Ways:
        """Returns the first way and all that leave it."""
        self.found.append((tracer, graph))
        for known, _ in self.found:  # grows
            for number in range(len(known.way), len(known.decisions)):
                self._leave(known, number)
        for known, _ in self.found:
            for number, decision in enumerate(known.decisions):
                raised = self.raised.get(_way(known.decisions[: number + 1]))
                if raised is not None:
                    raised.instead_of(decision.test)
        return Ways(tuple(graph for _, graph in self.found), tuple(self.open), tracer)

    def _leave(self, known: ShallowTracer, number: int) -> None:
        """Follows the other way of one decision."""
        *before, decision = met = known.decisions[: number + 1]
        way = (*_way(before), not decision.outcome)
        sizes = sizes_that_turn(known, met)
        for given in (*(sizes or ()), known.given) if len(self.found) < _MOST else ():
            tracer = ShallowTracer(
                self.call, self.structured, check=False, way=way, given=given, alone=True
            )
            try:
                graph = traced(tracer, self.call)
            except Untraceable as why:
                error = why.__cause__
                at_once = len(tracer.decisions) == len(way) and not tracer.went_on
                if at_once and isinstance(error, Exception) and _by_raise(error):
                    self.raised[_way(met)] = Raised.of(error, tracer.graph)
                    return
            else:
                self.found.append((tracer, graph))
                return
        if _by_batch(decision.condition):
            raise Untraceable(f"its forward decides by the number of images ({decision.where})")
        if sizes is None or sizes:  # else no size leads there
            self.open[decision.where] = None


def _way(decisions: Sequence[Decision]) -> tuple[bool, ...]:
    return tuple(decision.outcome for decision in decisions)


def _by_raise(error: Exception) -> bool:
    """Whether an error comes from a `raise` or an `assert` of the forward's own code."""
    trace: TracebackType | None = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None or is_foreign(trace.tb_frame.f_code.co_filename):
        return False
    steps = dis.get_instructions(trace.tb_frame.f_code)
    return any(s.offset == trace.tb_lasti and s.opname == "RAISE_VARARGS" for s in steps)


def _by_batch(condition: fx.Node) -> bool:
    """Whether a condition follows from the size of a first axis, or from a number of values."""
    asked, todo = {condition}, [condition]
    while todo:
        node = todo.pop()
        whole = node.args[0] if node.target is getitem else node
        if isinstance(whole, fx.Node) and reads_size(whole):
            name = whole.args[1] if whole.target is getattr else whole.target
            if name in ("numel", "nelement") or whole.target is torch.numel:
                return True
            if node.args[1:2] == (0,):
                return True
            continue
        todo += [n for n in node.all_input_nodes if n not in asked]
        asked.update(todo)
    return False
