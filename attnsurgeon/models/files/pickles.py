"""A pickle -> the value it describes, of plain values, tensors and stand-ins.

`pickletools` of the standard library takes a pickle apart without running it; this is the small
machine that puts the parts together. The standard unpickler is not used, because it calls whatever
a file names and makes whatever size a file says.
"""

from __future__ import annotations

import pickletools
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, dtype

from attnsurgeon.models.files.limits import Meter, Unreadable
from attnsurgeon.models.files.stand_ins import Name, StandIn

_PUSHED = (
    "INT BININT BININT1 BININT2 LONG LONG1 LONG4 STRING BINSTRING SHORT_BINSTRING BINBYTES"
    " SHORT_BINBYTES BINBYTES8 BYTEARRAY8 UNICODE SHORT_BINUNICODE BINUNICODE BINUNICODE8 FLOAT"
    " BINFLOAT"
)
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "EMPTY_DICT": dict,
    "EMPTY_SET": set,
}
# Those that are no plain values are the same only as themselves.
_PLAIN_KEYS = (str, bytes, bool, type(None), frozenset, Name, StandIn, Tensor, dtype)


def read_pickle(
    stream: Any,
    meter: Meter,
    find: Callable[[str, str], Name | Any],
    stored: Callable[[Any], Any],
) -> Any:
    """Read one pickle from where a stream stands, and leave the stream behind it.

    Args:
        stream: with `read`, `readline` and `tell`; a memory map, so that no more is ever read
            than there is.
        meter: counts.
        find: what stands for a global, from its module and its name.
        stored: what stands for a persistent id.

    Raises:
        Unreadable: it is no pickle, or asks for more than the limits allow.
    """
    machine = _Machine(meter, find, stored)
    start, limits = stream.tell(), meter.limits
    try:
        for count, (code, argument, place) in enumerate(pickletools.genops(stream)):
            if code.name == "STOP":
                return machine.stack.pop()
            machine.step(code.name, argument)
            if count % 4096 == 0:
                meter.tick()
            if count > limits.pickle_steps:
                raise Unreadable(f"its pickle has more than {limits.pickle_steps:,} steps")
            if place is not None and place - start > limits.pickle_bytes:
                raise Unreadable(f"its pickle has more than {limits.pickle_bytes:,} bytes")
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise Unreadable(f"its pickle is damaged ({type(error).__name__})") from error
    raise Unreadable("its pickle has no end")


class _Machine:
    """The stack, the marks and the memo of a pickle that is being read."""

    def __init__(self, meter: Meter, find: Callable[..., Any], stored: Callable[..., Any]) -> None:
        self.stack: list[Any] = []
        self._marked: list[list[Any]] = []
        self._memo: dict[int, Any] = {}
        self._meter, self._find, self._stored = meter, find, stored

    def step(self, code: str, argument: Any) -> None:
        """Does what one opcode says."""
        if code in _ALL_PUSHED:
            self.stack.append(argument)
        elif code in _CONSTANTS:
            self.stack.append(_CONSTANTS[code]())
        else:
            _STEPS[code](self, argument)

    def _since_mark(self) -> list[Any]:
        values, self.stack = self.stack, self._marked.pop()
        return values

    def mark(self, _: Any) -> None:
        self._marked.append(self.stack)
        self.stack = []

    def pop(self, _: Any) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self._since_mark()

    def pop_mark(self, _: Any) -> None:
        self._since_mark()

    def dup(self, _: Any) -> None:
        self.stack.append(self.stack[-1])

    def nothing(self, _: Any) -> None:
        """PROTO and FRAME say how the pickle is written, not what it holds."""

    def get(self, place: Any) -> None:
        self.stack.append(self._memo[place])

    def put(self, place: Any) -> None:
        self._memo[len(self._memo) if place is None else place] = self.stack[-1]

    def tuple_of(self, count: int) -> None:
        values = tuple(self.stack[-count:])
        if len(values) < count:
            raise IndexError
        self.stack[-count:] = [values]

    def tuple_since_mark(self, _: Any) -> None:
        values = tuple(self._since_mark())
        self.stack.append(values)

    def list_since_mark(self, _: Any) -> None:
        values = self._since_mark()
        self.stack.append(values)

    def dict_since_mark(self, _: Any) -> None:
        values = self._since_mark()
        self.stack.append({})
        self._set(values)

    def frozenset_since_mark(self, _: Any) -> None:
        values = frozenset(hashable(value) for value in self._since_mark())
        self.stack.append(values)

    def append(self, _: Any) -> None:
        self._extend([self.stack.pop()])

    def appends(self, _: Any) -> None:
        self._extend(self._since_mark())

    def _extend(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, StandIn):
            target = target.elements
        if not isinstance(target, list):
            raise TypeError
        target.extend(values)

    def add(self, _: Any) -> None:
        values, target = self._since_mark(), self.stack[-1]
        if isinstance(target, StandIn):
            target.elements.extend(values)
        elif isinstance(target, set):
            target.update(hashable(value) for value in values)
        else:
            raise TypeError

    def set_item(self, _: Any) -> None:
        values, self.stack[-2:] = self.stack[-2:], []
        self._set(values)

    def set_items(self, _: Any) -> None:
        self._set(self._since_mark())

    def _set(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, StandIn):
            target = target.items
        if not isinstance(target, dict) or len(values) % 2:
            raise TypeError
        for key, value in zip(values[::2], values[1::2], strict=True):
            target[hashable(key)] = value

    def named(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self.stack.append(self._find(module, name))

    def named_on_stack(self, _: Any) -> None:
        module, name = self.stack[-2:]
        if not (isinstance(module, str) and isinstance(name, str)):
            raise TypeError
        self.stack[-2:] = [self._find(module, name)]

    def instance(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        values = tuple(self._since_mark())
        self.stack.append(self._made(self._find(module, name), values))

    def object(self, _: Any) -> None:
        kind, *values = self._since_mark()
        self.stack.append(self._made(kind, tuple(values)))

    def call(self, _: Any) -> None:
        values = self.stack.pop()
        self.stack[-1] = self._made(self.stack[-1], values)

    def call_with_names(self, _: Any) -> None:
        names, values = self.stack.pop(), self.stack.pop()
        self.stack[-1] = self._made(self.stack[-1], values, names)

    def _made(self, kind: Any, values: Any, names: Any = None) -> Any:
        """What a call would make: a plain value where the file names one, else a stand-in."""
        if not isinstance(values, tuple):
            raise TypeError
        if isinstance(kind, Name) and kind.build is not None and not names:
            return kind.build(*values)
        made = StandIn(kind.called if isinstance(kind, Name) else type(kind).__name__, values)
        if isinstance(names, dict):
            made.items = names
        return made

    def build(self, _: Any) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, StandIn):
            target.set_state(state)
        elif isinstance(target, OrderedDict) and isinstance(state, Mapping):
            # What torch keeps beside a state dict: the versions of its modules.
            target._metadata = state.get("_metadata")  # type: ignore[attr-defined]

    def persistent(self, argument: Any) -> None:
        self.stack.append(self._stored(argument))

    def persistent_on_stack(self, _: Any) -> None:
        self.stack[-1] = self._stored(self.stack[-1])

    def extension(self, argument: Any) -> None:
        self.stack.append(Name(f"extension {argument}"))


_ALL_PUSHED = frozenset(_PUSHED.split())
_STEPS: dict[str, Callable[[_Machine, Any], None]] = {
    "PROTO": _Machine.nothing,
    "FRAME": _Machine.nothing,
    "MARK": _Machine.mark,
    "POP": _Machine.pop,
    "POP_MARK": _Machine.pop_mark,
    "DUP": _Machine.dup,
    "GET": _Machine.get,
    "BINGET": _Machine.get,
    "LONG_BINGET": _Machine.get,
    "PUT": _Machine.put,
    "BINPUT": _Machine.put,
    "LONG_BINPUT": _Machine.put,
    "MEMOIZE": _Machine.put,
    "TUPLE": _Machine.tuple_since_mark,
    "TUPLE1": lambda machine, _: machine.tuple_of(1),
    "TUPLE2": lambda machine, _: machine.tuple_of(2),
    "TUPLE3": lambda machine, _: machine.tuple_of(3),
    "LIST": _Machine.list_since_mark,
    "DICT": _Machine.dict_since_mark,
    "FROZENSET": _Machine.frozenset_since_mark,
    "APPEND": _Machine.append,
    "APPENDS": _Machine.appends,
    "ADDITEMS": _Machine.add,
    "SETITEM": _Machine.set_item,
    "SETITEMS": _Machine.set_items,
    "GLOBAL": _Machine.named,
    "STACK_GLOBAL": _Machine.named_on_stack,
    "INST": _Machine.instance,
    "OBJ": _Machine.object,
    "REDUCE": _Machine.call,
    "NEWOBJ": _Machine.call,
    "NEWOBJ_EX": _Machine.call_with_names,
    "BUILD": _Machine.build,
    "PERSID": _Machine.persistent,
    "BINPERSID": _Machine.persistent_on_stack,
    "EXT1": _Machine.extension,
    "EXT2": _Machine.extension,
    "EXT4": _Machine.extension,
}


def hashable(key: Any, depth: int = 0) -> Any:
    """Return a key of a dict, or refuse it.

    Hashing goes as deep as a tuple does, past the end of C's stack; and numbers can be chosen so
    that all fall into one slot.

    Raises:
        Unreadable: it may not be one.
    """
    if isinstance(key, _PLAIN_KEYS):
        return key
    if isinstance(key, (int, float)) and -(1 << 60) < key < 1 << 60:
        return key
    if isinstance(key, tuple) and len(key) <= 8 and depth < 2:
        return tuple(hashable(part, depth + 1) for part in key)
    raise Unreadable(f"its pickle has a key of type {type(key).__name__}")
