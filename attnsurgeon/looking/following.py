"""One run of a module -> what it multiplied its inputs by, found from outside while it runs.

Every torch function that runs inside is seen. An input is followed through products, through sums
with itself and others, and through changes of form, as a sum of the inputs, each times factors;
whatever else a function makes of it is followed no further. So the factors are the numbers that
the module itself multiplied with, not a quotient, which says nothing where an input is 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from attnsurgeon.recording.record import operation_name

Factors = list[Tensor]
Sum = dict[int, Factors]  # number of an input -> what it is multiplied by, as wide as the value

_SAME = frozenset(
    ["to", "float", "double", "half", "bfloat16", "type_as", "contiguous", "clone", "detach"]
)
_RESHAPES = frozenset(
    ["unflatten", "flatten", "reshape", "view", "view_as", "reshape_as", "squeeze", "unsqueeze"]
)
_TURNS = frozenset(["permute", "transpose", "movedim", "swapaxes", "swapdims", "moveaxis"])
_NOTED = frozenset(["sigmoid", "softmax"])


class Following(TorchFunctionMode):
    """Follows the inputs of a module while it runs under this mode.

    Attributes:
        results: name of a function -> what its calls gave, in order.
    """

    def __init__(self, values: Sequence[Tensor]) -> None:
        super().__init__()
        self.results: dict[str, list[Tensor]] = {name: [] for name in _NOTED}
        # The tensors are held, so that no other one gets their ids.
        self._known: dict[int, tuple[Tensor, Sum]] = {}
        for number, value in enumerate(values):
            self._known.setdefault(id(value), (value, {number: []}))

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = operation_name(func)
        rule = _RULES.get(name)
        # Before the call, which may change an input in place.
        made_of = rule(self, func, args, kwargs) if rule is not None else None
        made = func(*args, **kwargs)
        if isinstance(made, Tensor):
            if made_of is not None:
                self._keep(made, made_of(made))
            elif rule is not None or _changes(func):
                self._known.pop(id(made), None)
            if name in _NOTED:
                self.results[name].append(made)
        return made

    def of(self, value: Any) -> Sum | None:
        """Returns what a tensor is, as a sum of the inputs; None where it is no such sum."""
        held = self._known.get(id(value))
        return held[1] if held is not None else None

    def _keep(self, made: Tensor, found: Sum | None) -> None:
        if found is None:
            self._known.pop(id(made), None)
        else:
            self._known[id(made)] = (made, found)


Finish = Callable[[Tensor], "Sum | None"]


def _changes(func: Any) -> bool:
    name = getattr(func, "__name__", "")
    return name.endswith("_") and (not name.startswith("__") or name.startswith("__i"))


def _times(mode: Following, func: Any, args: Any, kwargs: Any) -> Finish | None:
    """value * factor, value / factor."""
    value, factor = _two(args, kwargs)
    found, other = mode.of(value), mode.of(factor)
    if (found is None) == (other is None):  # of no input, or a product of inputs
        return None
    if operation_name(func) == "div":
        if found is None or kwargs.get("rounding_mode") or _is_reflected(func):
            return None
        factor = 1 / factor
    elif found is None:
        value, factor, found = factor, value, other
    assert found is not None
    return lambda made: (
        {n: [*f, _wide(factor, made)] for n, f in found.items()}
        if made.shape == value.shape
        else None
    )


def _plus(mode: Following, func: Any, args: Any, kwargs: Any) -> Finish | None:
    """value + value, value - value."""
    one, other = _two(args, kwargs)
    of_one, of_other = mode.of(one), mode.of(other)
    if of_one is None or of_other is None or kwargs.get("alpha", 1) != 1 or len(args) > 2:
        return None
    sign = -1 if operation_name(func) == "sub" else 1
    return lambda made: _added(made, of_one, _scaled(made, of_other, sign))


def _minus(mode: Following, func: Any, args: Any, kwargs: Any) -> Finish | None:
    found = mode.of(args[0])
    return None if found is None else lambda made: _scaled(made, found, -1)


def _addcmul(mode: Following, func: Any, args: Any, kwargs: Any) -> Finish | None:
    """value + scale * value * factor."""
    if len(args) != 3:
        return None
    start, one, other = (mode.of(arg) for arg in args)
    if start is None or (one is None) == (other is None):
        return None
    found, factor = (one, args[2]) if one is not None else (other, args[1])
    scale = kwargs.get("value", 1)
    assert found is not None
    return lambda made: _added(made, start, _scaled(made, found, scale * factor))


def _lerp(mode: Following, func: Any, args: Any, kwargs: Any) -> Finish | None:
    """start + weight * (end - start)."""
    if len(args) + len(kwargs) != 3:
        return None
    start, end, weight = _named(("input", "end", "weight"), args, kwargs)
    of_start, of_end = mode.of(start), mode.of(end)
    if of_start is None or of_end is None:
        return None

    def finish(made: Tensor) -> Sum:
        if of_start.keys() == of_end.keys():
            return {
                n: [torch.lerp(*_alike(_whole(of_start[n], made), _whole(of_end[n], made), weight))]
                for n in of_start
            }
        return _added(made, _scaled(made, of_start, 1 - weight), _scaled(made, of_end, weight))

    return finish


def _same(mode: Following, func: Any, args: Any, kwargs: Any) -> Finish | None:
    found = mode.of(args[0])
    return None if found is None else lambda made: found


def _reshape(mode: Following, func: Any, args: Any, kwargs: Any) -> Finish | None:
    """The same values in another form."""
    value, found = args[0], mode.of(args[0])
    if found is None:
        return None
    shape = value.shape
    return lambda made: (
        {n: [f.expand(shape).reshape(made.shape) for f in factors] for n, factors in found.items()}
        if made.numel() == shape.numel()
        else None
    )


def _turn(mode: Following, func: Any, args: Any, kwargs: Any) -> Finish | None:
    """The same values with their axes in another order."""
    found = mode.of(args[0])
    if found is None:
        return None
    return lambda made: {
        n: [func(f, *args[1:], **kwargs) for f in factors] for n, factors in found.items()
    }


_RULES: dict[str, Callable[..., Finish | None]] = {
    **dict.fromkeys(["mul", "div"], _times),
    **dict.fromkeys(["add", "sub"], _plus),
    "neg": _minus,
    "addcmul": _addcmul,
    "lerp": _lerp,
    **dict.fromkeys(_SAME, _same),
    **dict.fromkeys(_RESHAPES, _reshape),
    **dict.fromkeys(_TURNS, _turn),
}


def _is_reflected(func: Any) -> bool:
    """Whether the operands come in the other order: 1 / x."""
    return getattr(func, "__name__", "").startswith("__r")


def _named(names: tuple[str, ...], args: Any, kwargs: Any) -> tuple[Any, ...]:
    return (*args, *(kwargs[name] for name in names[len(args) :]))


def _two(args: Any, kwargs: Any) -> tuple[Any, Any]:
    given = (*args[:2], *(kwargs[name] for name in ("input", "other") if name in kwargs))
    return given[0], given[1] if len(given) > 1 else None


def _wide(factor: Any, made: Tensor) -> Tensor:
    """A factor with as many axes as what was made, those of length 1 along which it is the same."""
    if not isinstance(factor, Tensor):
        return made.new_full((1,) * made.dim(), factor)
    factor = factor[(None,) * (made.dim() - factor.dim())]
    for axis, step in enumerate(factor.stride()):
        if step == 0 and factor.shape[axis] > 1:  # expanded
            factor = factor.narrow(axis, 0, 1)
    return factor


def _whole(factors: Factors, made: Tensor) -> Tensor:
    product = made.new_ones((1,) * made.dim())
    for factor in factors:
        product = product * factor
    return product


def _alike(start: Tensor, end: Tensor, weight: Any) -> tuple[Tensor, Tensor, Any]:
    kind = torch.promote_types(start.dtype, end.dtype)
    if isinstance(weight, Tensor):
        weight = weight.to(kind)
    return start.to(kind), end.to(kind), weight


def _scaled(made: Tensor, found: Sum, scale: Any) -> Sum:
    """A sum times a number or a tensor."""
    if not isinstance(scale, Tensor) and scale == 1:
        return found
    return {number: [*factors, _wide(scale, made)] for number, factors in found.items()}


def _added(made: Tensor, one: Sum, other: Sum) -> Sum:
    both = one.keys() & other.keys()
    return {
        number: [_whole(one[number], made) + _whole(other[number], made)]
        if number in both
        else (one[number] if number in one else other[number])
        for number in sorted({*one, *other})
    }
