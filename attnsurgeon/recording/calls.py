"""Modules -> their calls, answered by somebody else while a context lasts.

nn.Module.__call__ is every network's, in every thread. What nn.Module.compile() sets on one object
is asked for first, and is that object's alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from torch import nn

_ASKED_FIRST = "_compiled_call_impl"


@contextlib.contextmanager
def answered(
    modules: Iterable[nn.Module], answer: Callable[[nn.Module], Callable[..., Any]]
) -> Iterator[None]:
    """Lets `answer(module)` be called in place of each module; its own is `module._call_impl`."""
    modules = list(modules)
    before = [(vars(module), vars(module).get(_ASKED_FIRST)) for module in modules]
    for module in modules:
        vars(module)[_ASKED_FIRST] = answer(module)
    try:
        yield
    finally:
        for held, compiled in before:
            held.pop(_ASKED_FIRST, None)
            if compiled is not None:
                held[_ASKED_FIRST] = compiled
