"""A trace in progress -> is it the record? Operation by operation: name, values, constants."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, fx

from attnsurgeon.recording.record import Call, Event, Key, keyed_events, tensors_in


class Untraceable(Exception):
    """Why a forward has no faithful shallow graph; the text is the reason."""


class Alignment:
    """Walks along the record of one call while the same forward is traced.

    torch.fx follows a forward with proxies, and a forward may take another way for a proxy than
    for a tensor: `isinstance(x, Tensor)` alone can change a constant that no operation's name
    shows. So values and constants are compared too.
    """

    def __init__(self, call: Call) -> None:
        self._call = call
        self._expected = keyed_events(call)
        self._at = 0
        self._recorded: dict[int, fx.Node] = {}  # id of a tensor -> its present value in the record
        self._note(tensors_in((call.args, call.kwargs)), call.inputs)

    def function(self, key: Key, given: Any, results: list[Tensor], is_property: bool) -> None:
        """Takes the next operation; `given` are its arguments in the trace."""
        event = self._next(key)
        assert isinstance(event, Event)
        if not event.alias:
            made = event.nodes[0]
            whole = made.args[0] if made.meta["name"] == "part" else made
            assert isinstance(whole, fx.Node)
            # For x.T the record has called the property itself, the trace calls getattr.
            constants = given if is_property else (whole.args, whole.kwargs)
            self._compare(key, whole.all_input_nodes, given, constants)
        self._note(results, event.nodes)

    def child(self, key: Key, child: Call, given: Any) -> None:
        """Takes the next call of a child."""
        self._next(key)
        self._compare(key, child.inputs, given, (child.args, child.kwargs))
        self._note(tensors_in(given), child.inputs_after)

    def child_made(self, child: Call, output: Any) -> None:
        """Takes over what the record calls a child's results."""
        self._note(tensors_in(output), child.outputs)

    def end(self, output: Any) -> None:
        """Checks that the whole record was met and that the same values come out."""
        if self._at != len(self._expected):
            raise Untraceable(f"its trace leaves out {_say(self._expected[self._at][0])}")
        ours = [self._recorded.get(id(t)) for t in tensors_in(output)]
        theirs = self._call.outputs
        same = all(a is b or not b.meta["data"] for a, b in zip(ours, theirs, strict=False))
        if not same or len(ours) != len(theirs):
            raise Untraceable("its trace returns other values than the record")

    def _next(self, key: Key) -> Event | Call:
        wanted, event = self._expected[self._at] if self._at < len(self._expected) else (None, None)
        if event is None or wanted != key:
            raise Untraceable(f"its trace runs {_say(key)} where the record has {_say(wanted)}")
        self._at += 1
        return event

    def _compare(self, key: Key, values: Iterable[fx.Node], given: Any, recorded: Any) -> None:
        ours = {self._recorded.get(id(t)) for t in tensors_in(given)}
        if {n for n in ours if n and n.meta["data"]} != {n for n in values if n.meta["data"]}:
            raise Untraceable(f"its trace gives {_say(key)} other values than the record")
        if constants_in(given) != constants_in(recorded):
            raise Untraceable(f"its trace gives {_say(key)} other constants than the record")

    def _note(self, tensors: Iterable[Tensor], values: Iterable[fx.Node]) -> None:
        self._recorded.update(zip(map(id, tensors), values, strict=False))


def constants_in(value: Any) -> list[Any]:
    """The plain values in nested arguments, in order."""
    if isinstance(value, dict):
        return [c for v in value.values() for c in constants_in(v)]
    if isinstance(value, (list, tuple)):
        return [c for v in value for c in constants_in(v)]
    if isinstance(value, slice):
        return constants_in([value.start, value.stop, value.step])
    plain = (bool, int, float, str, type(None), torch.dtype, torch.device, torch.memory_format)
    return [value] if isinstance(value, plain) else []


def _say(key: Key | None) -> str:
    return "nothing" if key is None else f"{key[1]}" + (f"#{key[2] + 1}" if key[2] else "")
