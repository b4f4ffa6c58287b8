"""A network's code -> the caches that its functions keep between calls, emptied after a trial run.

`functools.lru_cache` around a function of (height, width) that makes an index, as BEiT does it:
what a run on the meta device leaves there would be handed to the next run on numbers, which would
compute nonsense without an error.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Iterable, Iterator
from types import CellType, FunctionType
from typing import Any

from torch import nn

_CACHE = type(functools.cache(lambda: None))
_LIBRARIES = ("torch", "attnsurgeon")  # their caches hold nothing of the networks they run


@contextlib.contextmanager
def caches_as_they_were(model: nn.Module) -> Iterator[None]:
    """Empties every cache in the code of a network's classes that gets a new entry inside."""
    before = [(cache, cache.cache_info().misses) for cache in _caches_of(model)]
    try:
        yield
    finally:
        for cache, misses in before:
            if cache.cache_info().misses != misses:
                cache.cache_clear()


def _caches_of(model: nn.Module) -> list[Any]:
    """The caches on the network's modules, in its classes, and in the files that define them."""
    kinds = {kind for module in model.modules() for kind in type(module).__mro__}
    homes = {kind.__module__ for kind in kinds if _is_foreign(kind.__module__)}
    values = [value for module in model.modules() for value in vars(module).values()]
    for home in homes:
        for value in list(vars(sys.modules.get(home, sys)).values()):
            values.append(value)
            if isinstance(value, type) and value.__module__ == home:
                values += vars(value).values()
    for kind in kinds:  # a class may be made in a function, or stand in no file
        values += vars(kind).values() if _is_foreign(kind.__module__) else ()
    return list({id(cache): cache for cache in _behind(values)}.values())


def _is_foreign(module: str) -> bool:
    return module.partition(".")[0] not in (*_LIBRARIES, "builtins", "abc")


def _behind(values: Iterable[Any]) -> Iterator[Any]:
    """The caches among some values: as they are, in a static method, or inside a decorator."""
    todo, seen = list(values), set()
    while todo:
        value = todo.pop()
        value = value.__func__ if isinstance(value, _METHODS) else value
        if isinstance(value, _CACHE):
            yield value
        elif isinstance(value, FunctionType) and id(value) not in seen:
            seen.add(id(value))  # a closure may hold the function itself
            todo += [_held(cell) for cell in value.__closure__ or ()]


_METHODS = (staticmethod, classmethod)


def _held(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return None
