"""The proxies of a symbolic forward: those of torch.fx, with lengths and changes in place."""

from __future__ import annotations

import operator
from typing import Any

from torch import Tensor, fx

from attnsurgeon.forwards.alignment import Untraceable


class Proxy(fx.Proxy):
    """A proxy that knows the length of the tuple it stands for and can be changed in place."""

    def __len__(self) -> int:
        value = self.tracer.values.get(self.node)  # type: ignore[attr-defined]
        if isinstance(value, (tuple, list)):
            return len(value)
        raise Untraceable("its forward asks for the length of a tensor")

    def __setitem__(self, index: Any, value: Any) -> None:
        self.tracer.create_proxy("call_function", operator.setitem, (self, index, value), {})


def _in_place(changing: Any, plain: Any) -> Any:
    """`x += y` changes x itself where it is a tensor; fx would make a new value of it."""

    def method(self: Proxy, other: Any) -> Any:
        value = self.tracer.values.get(self.node)  # type: ignore[attr-defined]
        if not isinstance(value, Tensor):
            return plain(self, other)
        return self.tracer.create_proxy("call_function", changing, (self, other), {})

    return method


for _way in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "and", "or", "xor"):
    _plain = getattr(operator, f"__{_way}__")
    setattr(Proxy, f"__i{_way}__", _in_place(getattr(operator, f"i{_way}"), _plain))
