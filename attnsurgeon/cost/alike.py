"""Traced -> which calls of modules are alike: the same operations on values of the same shapes.

A network repeats itself: forty blocks of a transformer are one block, and so weigh forty times the
same. What is alike is told by the record of what the calls did, never by attributes: a drop path
of another rate does nothing in evaluation. A call that cannot be compared, because something in it
was not seen, is alike to no other.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

from torch import Tensor, fx

from attnsurgeon.recording.record import MARK, Call, Traced
from attnsurgeon.recording.trace import unseen


class Kinds:
    """Numbers for the calls of a record: those that are alike have the same.

    Args:
        traced: the record.

    Attributes:
        of: the number of each call.
    """

    def __init__(self, traced: Traced) -> None:
        self.of: dict[Call, int] = {}
        self._root = traced.root
        self._nodes = list(traced.graph.nodes)
        self._given_out = frozenset(traced.root.outputs)
        self._numbers: dict[Hashable, int] = {}
        self._answerable: dict[Call, bool] = {}
        self._number(traced.root)

    def touched(self, marks: Mapping[Call, Hashable]) -> dict[Call, int]:
        """Returns numbers for marked calls and the calls around them: alike where the marks are.

        Args:
            marks: call -> what will be done there, equal where it is the same.
        """
        around = {outer for call in marks for outer in call.chain()}
        found: dict[Call, int] = {}
        numbers: dict[Hashable, int] = {}  # of this question: others may ask at the same time

        def number(call: Call) -> int:
            inner = [
                (place, number(event))  # which of the calls inside are marked has to be told
                for place, event in enumerate(call.events)
                if isinstance(event, Call) and event in around
            ]
            value = ("touched", self.of[call], marks.get(call), *inner)
            found[call] = numbers.setdefault(value, len(self._numbers) + len(numbers))
            return found[call]

        if around:
            number(self._root)
        return found

    def is_answerable(self, call: Call) -> bool:
        """Whether nobody misses anything where the call's output is known and it does not run.

        Not so where code elsewhere goes on with a value made inside, or with an argument that was
        changed in place.
        """
        if call not in self._answerable:
            self._answerable[call] = call is not self._root and not self._leaks(call)
        return self._answerable[call]

    def _leaks(self, call: Call) -> bool:
        returned = frozenset(call.outputs)
        for node in self._nodes[call.start : call.end]:
            if node in returned:
                continue
            if node in self._given_out or any(u.meta["order"] >= call.end for u in node.users):
                return True
        return False

    def _number(self, call: Call) -> int:
        start, own = call.start, call.inputs
        found: list[Hashable] = [type(call.module)]
        apart = vars(call.module).get(MARK) is not None  # what runs inside was not recorded
        for event in call.events:
            if isinstance(event, Call):
                found.append(self._number(event))
                given: Any = event.inputs
            elif event.alias:
                found.append((event.name, _shapes(event.nodes)))
                continue
            else:
                made = event.nodes[0]
                if made.meta.get("name") == "part":
                    made = made.args[0]
                    assert isinstance(made, fx.Node)
                given = made.all_input_nodes
                found.append((made.target, _plain(made.args), _plain(made.kwargs),
                              _shapes(event.nodes)))  # fmt: skip
            for node in given:
                if _is_unseen(node):
                    apart = True
                elif node.meta["order"] < start and node.meta["data"] and node not in own:
                    apart = True  # it came another way than as an argument
        found.append(_shapes(call.outputs))
        form = _form(call.output)
        if form is None or any(map(_is_unseen, call.outputs)) or not _keep_shape(call):
            apart = True
        value: Hashable = ("apart", id(call)) if apart else (*found, form)
        self.of[call] = self._numbers.setdefault(value, len(self._numbers))
        return self.of[call]


def hands_on(call: Call) -> bool:
    """Whether a call did nothing but return its first argument."""
    return not call.events and isinstance(call.output, Tensor) and call.takes(call.outputs[0])


def _is_unseen(node: fx.Node) -> bool:
    """Whether a value was made where no torch function could be seen."""
    return node.target is unseen


def _keep_shape(call: Call) -> bool:
    after = call.inputs_after
    return after == call.inputs or _shapes(after) == _shapes(call.inputs)


def _shapes(nodes: tuple[fx.Node, ...]) -> Hashable:
    return tuple([(node.meta["shape"], node.meta["dtype"]) for node in nodes])


def _plain(value: Any) -> Hashable:
    """Arguments as a value to compare: of a tensor the shape."""
    kind = type(value)
    if kind is fx.Node:
        return value.meta["shape"], value.meta["dtype"]
    if kind in (int, bool, float, str):
        return value
    if isinstance(value, (tuple, list)):
        return tuple([_plain(v) for v in value])
    if isinstance(value, dict):
        return tuple([(_plain(k), _plain(v)) for k, v in value.items()])
    if isinstance(value, slice):
        return slice, _plain(value.start), _plain(value.stop), _plain(value.step)
    try:
        hash(value)
    except TypeError:
        return id(value)
    return value


def _form(value: Any) -> Hashable:
    """The structure of what a module returned; None where it is of a type of its own."""
    if isinstance(value, Tensor):
        return "tensor"
    if value is None or type(value) in (int, bool, float, str):
        return "plain", value
    if type(value) in (tuple, list):
        inner: list[Hashable] = [_form(v) for v in value]
    elif type(value) is dict:
        inner = [(k, _form(v)) for k, v in value.items()]
        return None if any(form is None for _, form in inner) else (dict, *inner)  # type: ignore[misc]
    else:
        return None
    return None if any(form is None for form in inner) else (type(value), *inner)
