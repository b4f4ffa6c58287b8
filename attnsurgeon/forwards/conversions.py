"""`int(...)` and `float(...)` of sizes: in a symbolic forward they are steps of it, as any other.

Python asks an object for a number there and takes no proxy of one. So where a forward does that, it
is traced again while the two names lead to what stands in for them, in the modules whose functions
it may run; that hands on whatever is no proxy, in any thread. Not at once: a forward may also mean
the types themselves (`type(k) is int`).
"""

from __future__ import annotations

from collections.abc import Iterator
from types import FunctionType
from typing import Any

from torch import Tensor, fx, nn

from attnsurgeon.forwards.alignment import Untraceable
from attnsurgeon.forwards.whereabouts import is_foreign


class NumberAsked(Untraceable):
    """Python was to make a number of a proxy of one: with stand-ins the forward can be traced."""


def of_a_value() -> Untraceable:
    """Why a number that is made of a tensor is no step of a forward."""
    return Untraceable("its forward makes a number of a value that depends on the input")


class _Conversion(type):
    """A class that makes numbers as `base` does, is asked for its instances as `base` is, and
    writes down what it makes of a proxy.
    """

    base: type

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        if not args or not issubclass(type(args[0]), fx.Proxy):
            return cls.base(*args, **kwargs)
        if isinstance(args[0]._value, Tensor):
            raise of_a_value()
        return args[0].tracer.create_proxy("call_function", cls.base, args, kwargs)

    def __getattr__(cls, name: str) -> Any:
        return getattr(cls.base, name)

    def __instancecheck__(cls, instance: Any) -> bool:
        if issubclass(type(instance), fx.Proxy):
            instance = instance._value
        return isinstance(instance, cls.base)

    def __subclasscheck__(cls, subclass: Any) -> bool:
        return issubclass(subclass, cls.base)

    def __eq__(cls, other: object) -> bool:
        return other is cls or other is cls.base

    def __hash__(cls) -> int:
        return hash(cls.base)


class _Int(metaclass=_Conversion):
    base = int


class _Float(metaclass=_Conversion):
    base = float


_STANDING_IN = {"int": _Int, "float": _Float}


def conversions(root: nn.Module) -> Iterator[tuple[dict[str, Any], str, type]]:
    """Yields the module dicts in which the forward of `root` may convert numbers, the name, and
    what stands in for it there.
    """
    methods = [f for kind in type(root).__mro__ for f in vars(kind).values()]
    scopes = {id(f.__globals__): f.__globals__ for f in methods if isinstance(f, FunctionType)}
    helpers = [f for scope in scopes.values() for f in scope.values()]
    seen = set()
    for function in (*methods, *helpers):
        if not isinstance(function, FunctionType) or is_foreign(function.__code__.co_filename):
            continue
        scope = function.__globals__
        for name, kind in _STANDING_IN.items():
            if name in function.__code__.co_names and (id(scope), name) not in seen:
                seen.add((id(scope), name))
                if name not in scope:
                    yield scope, name, kind
