"""Value -> the calls in which it can be seen: made there, handed on by them, given to them."""

from __future__ import annotations

from torch import Tensor, fx

from attnsurgeon.recording.record import Call, Key, key_of
from attnsurgeon.sites.flow import Flow
from attnsurgeon.sites.survey import makes_alone


def appearances(node: fx.Node, first: Call) -> list[tuple[Call, Key]]:
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


def makers(node: fx.Node, first: Call) -> list[Call]:
    """The calls whose only output is the value, innermost first, none inside a rebuilder."""
    found = []
    call: Call | None = node.meta["call"]
    allowed = list(first.chain())
    while call is not None and call.returns(node):
        if call.parent is None or call.parent in allowed:
            found.append(call)
        call = call.parent
    return found


def seen_in(call: Call, node: fx.Node) -> Key | None:
    """How a forward names a value that it is given or makes itself; None where it cannot."""
    nested = any(isinstance(value, (list, tuple, dict)) for value in call.args)
    tensors = [i for i, v in enumerate(call.args) if isinstance(v, Tensor) and not nested]
    for position, given in zip(tensors, call.inputs, strict=False):
        if given is node:
            return "input", str(position), 0
    return next((key for c, key in appearances(node, call) if c is call), None)


def within(call: Call, node: fx.Node) -> bool:
    """Whether the value is made inside the call."""
    return call.start <= node.meta["order"] < call.end


def input_of(node: fx.Node) -> fx.Node | None:
    """The value that an operation works on: its first input that depends on the data."""
    return next(iter(Flow.inputs(node)), None)
