"""A network's code -> the caches that its functions keep between calls, untouched by a trial run.

`functools.lru_cache` around a function of (height, width) that makes an index, as BEiT does it:
what a run on the meta device left there would be handed to the next run on numbers, in whichever
thread, which would compute nonsense without an error. So a trial run finds an empty cache of its
own in each place where its network's code holds one; whoever else calls it meets what was there.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from types import CellType, FunctionType, MethodType
from typing import Any

from torch import nn

_CACHE = type(functools.cache(lambda: None))
_LIBRARIES = ("torch", "attnsurgeon")  # their caches hold nothing of the networks they run
_HELD = threading.Lock()
_run = threading.local()


class OwnCache:
    """Stands in for a cache: in a thread on trial it has another one, in others it is the same."""

    def __init__(self, cache: Any) -> None:
        self.cache = cache
        self.places = 0  # runs that have asked for it

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the cached function."""
        own: dict[int, Any] | None = getattr(_run, "caches", None)
        if own is None:
            return self.cache(*args, **kwargs)
        if id(self) not in own:
            make = functools.lru_cache(**self.cache.cache_parameters())
            own[id(self)] = make(self.cache.__wrapped__)
        return own[id(self)](*args, **kwargs)

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        return self if instance is None else MethodType(self, instance)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.cache, name)


@dataclass(frozen=True)
class _Place:
    """Where a cache is held.

    Attributes:
        key: the same for one place, however often it is found.
        value: what is there: a cache, or what stands in for it.
        put: sets another value there.
    """

    key: tuple[int, str]
    value: Any
    put: Callable[[Any], None]


@contextlib.contextmanager
def caches_as_they_were(
    model: nn.Module, modules: Iterable[nn.Module] | None = None
) -> Iterator[None]:
    """Lets the code of a network's classes start with empty caches, and keep nothing in its own.

    Args:
        model: the network.
        modules: those of it that will run, where not all of them do.
    """
    running = list(model.modules() if modules is None else modules)
    outer = getattr(_run, "caches", None)
    asked: list[tuple[_Place, OwnCache]] = []
    try:
        with _HELD:
            for place in list({place.key: place for place in _places(running)}.values()):
                own = place.value
                if not isinstance(own, OwnCache):
                    own = OwnCache(place.value)
                    place.put(own)
                own.places += 1
                asked.append((place, own))
        _run.caches = {} if outer is None else outer
        yield
    finally:
        _run.caches = outer
        with _HELD:
            for place, own in asked:
                own.places -= 1
                if not own.places:
                    place.put(own.cache)


def _places(modules: list[nn.Module]) -> Iterator[_Place]:
    """Where caches are: on the network's modules, in its classes, in the files that define them."""
    kinds = {kind for module in modules for kind in type(module).__mro__}
    homes = {kind.__module__ for kind in kinds if _is_foreign(kind.__module__)}
    for module in modules:
        yield from _in_names(vars(module))
    for home in homes:
        file = vars(sys.modules.get(home, sys))
        yield from _in_names(file)
        for value in list(file.values()):
            if isinstance(value, type) and value.__module__ == home:
                yield from _in_class(value)
    for kind in kinds:  # a class may be made in a function, or stand in no file
        if _is_foreign(kind.__module__):
            yield from _in_class(kind)


def _is_foreign(module: str) -> bool:
    return module.partition(".")[0] not in (*_LIBRARIES, "builtins", "abc")


def _in_names(names: dict[str, Any]) -> Iterator[_Place]:
    for name, value in list(names.items()):
        if isinstance(value, _CACHES):
            yield _Place((id(names), name), value, functools.partial(names.__setitem__, name))
        elif isinstance(value, FunctionType):
            yield from _in_function(value, set())


def _in_class(kind: type) -> Iterator[_Place]:
    for name, value in list(vars(kind).items()):
        method = value if isinstance(value, (staticmethod, classmethod)) else None
        held = value if method is None else method.__func__
        if isinstance(held, _CACHES):
            yield _Place((id(kind), name), held, functools.partial(_set, kind, name, method))
        else:
            yield from _in_function(held, set())


def _set(kind: type, name: str, method: Any, value: Any) -> None:
    type.__setattr__(kind, name, value if method is None else type(method)(value))


def _in_function(value: Any, seen: set[int]) -> Iterator[_Place]:
    """The caches in the closure of a function: a decorator's, say."""
    if not isinstance(value, FunctionType) or id(value) in seen:
        return
    seen.add(id(value))  # a closure may hold the function itself
    for cell in value.__closure__ or ():
        held = _held(cell)
        if isinstance(held, _CACHES):
            yield _Place((id(cell), ""), held, functools.partial(_fill, cell))
        else:
            yield from _in_function(held, seen)


def _held(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return None


def _fill(cell: CellType, value: Any) -> None:
    cell.cell_contents = value


_CACHES = (_CACHE, OwnCache)
