"""The proxies of a symbolic forward: those of torch.fx, but they know what they stand for.

They have lengths, can be changed in place, answer as tensors and sizes where a forward asks for
their type, and stand in the texts of errors for values that only a call knows.
"""

from __future__ import annotations

import dis
import math
import operator
import sys
from collections.abc import Iterator
from functools import lru_cache
from types import CodeType
from typing import Any

import torch
from torch import Tensor, fx

from attnsurgeon.forwards.alignment import Untraceable
from attnsurgeon.forwards.conversions import NumberAsked, of_a_value
from attnsurgeon.forwards.decisions import in_text
from attnsurgeon.forwards.whereabouts import is_foreign

_FUNCTIONS = torch.autograd.function.__file__
_OWN = (fx.__path__[0], __file__.rpartition("forwards")[0])


def _asked_here(depth: int) -> bool:
    """Whether torch.fx or this package asks, who want to know of the proxy, not of its value."""
    return sys._getframe(depth).f_code.co_filename.startswith(_OWN)


@lru_cache(maxsize=1000)
def _python_asks(code: CodeType, at: int) -> bool:
    """Whether the instruction that is carried out asks for a class itself, by `isinstance`.

    A call of anything else is one of C (an `autograd.Function.apply` that was kept under a name),
    which takes what says that it is a tensor for one, and reads its memory.
    """
    instructions = list(dis.get_instructions(code))
    now = next((one for one in instructions if one.offset == at), None)
    if now is None or not now.opname.startswith(("CALL", "PRECALL")):
        return True
    asking = [one for one in instructions if one.argval == "isinstance"]
    start = _start_of(now)
    return bool(asking) if start is None else any(_start_of(one) == start for one in asking)


def _start_of(instruction: dis.Instruction) -> tuple[int, int] | None:
    """Line and column where its expression begins: that of a call where what is called does."""
    positions = getattr(instruction, "positions", None)  # not before Python 3.11
    if positions is None or positions.lineno is None or positions.col_offset is None:
        return None
    return positions.lineno, positions.col_offset


class Proxy(fx.Proxy):
    """A proxy that knows what it stands for."""

    _is_param = False  # nn.Parameter asks whatever is a tensor

    @property
    def __class__(self) -> type:
        """What `isinstance` is told in a forward; `type()` is not asked."""
        if _asked_here(2):
            return Proxy
        value = self._value
        if isinstance(value, Tensor):
            frame = sys._getframe(1)
            file = frame.f_code.co_filename
            of_user = not is_foreign(file)
            if (of_user or file == _FUNCTIONS) and not _python_asks(frame.f_code, frame.f_lasti):
                return Proxy
            if of_user:
                self.tracer.asked_for_a_tensor(self.node)  # type: ignore[attr-defined]
            return Tensor
        return int if type(value) is int else Proxy

    def __hash__(self) -> int:
        if isinstance(self._value, (int, float, str)) and not _asked_here(2):
            raise Untraceable("its forward looks a size up in a table")
        return id(self)

    @property
    def _value(self) -> Any:
        return self.tracer.values.get(self.node)  # type: ignore[attr-defined]

    def __int__(self) -> int:
        raise self._no_number()

    def __float__(self) -> float:
        raise self._no_number()

    def _no_number(self) -> Untraceable:
        if isinstance(self._value, Tensor):
            return of_a_value()
        return NumberAsked("its forward makes a number of a size in a way that cannot be followed")

    def __len__(self) -> int:
        value = self._value
        if isinstance(value, (tuple, list)):
            self.tracer.count(self.node, len(value))  # type: ignore[attr-defined]
            return len(value)
        raise Untraceable("its forward asks for the length of a tensor")

    def __iter__(self) -> Iterator[Any]:
        if isinstance(self._value, (tuple, list)):
            return self.tracer.iter(self)
        frame = sys._getframe(1)
        steps = dis.get_instructions(frame.f_code)
        step = next(s for s in steps if s.offset == frame.f_lasti)
        if step.opname == "UNPACK_SEQUENCE":  # a, b = tensor
            return (self[i] for i in range(step.argval))  # type: ignore[index]
        return self.tracer.iter(self)

    def __ceil__(self) -> Any:
        return self.tracer.create_proxy("call_function", math.ceil, (self,), {})

    def __floor__(self) -> Any:
        return self.tracer.create_proxy("call_function", math.floor, (self,), {})

    def __format__(self, spec: str) -> str:
        return in_text(self.node)

    def __str__(self) -> str:
        return in_text(self.node)

    def __setitem__(self, index: Any, value: Any) -> None:
        self.tracer.create_proxy("call_function", operator.setitem, (self, index, value), {})


def _in_place(changing: Any, plain: Any) -> Any:
    """`x += y` changes x itself where it is a tensor; fx would make a new value of it."""

    def method(self: Proxy, other: Any) -> Any:
        if not isinstance(self._value, Tensor):
            return plain(self, other)
        return self.tracer.create_proxy("call_function", changing, (self, other), {})

    return method


for _way in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "and", "or", "xor"):
    _plain = getattr(operator, f"__{_way}__")
    setattr(Proxy, f"__i{_way}__", _in_place(getattr(operator, f"i{_way}"), _plain))
