"""The hooks that a program has hung on all modules of the process -> silent in this thread.

`torch.nn.modules.module.register_module_forward_hook` serves profilers and counters. Such hooks are
no part of a network, and what we run on copies is nothing that they should count. They stay hung:
other threads run theirs, and are to go on doing so.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

from torch.nn.modules import module as _torchs

_HELD = threading.Lock()
_silent = threading.local()
_KINDS = [
    vars(_torchs)[name]
    for name in (
        "_global_forward_pre_hooks",
        "_global_forward_hooks",
        "_global_backward_pre_hooks",
        "_global_backward_hooks",
    )
    if name in vars(_torchs)
]
_users = 0


class _Elsewhere:
    """A hook that is called but in the threads that want none."""

    def __init__(self, hook: Any) -> None:
        self.hook = hook

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return None if getattr(_silent, "depth", 0) else self.hook(*args, **kwargs)


@contextlib.contextmanager
def without_global_hooks() -> Iterator[None]:
    """Keeps hooks on all modules of the process from firing inside, in this thread."""
    global _users
    with _HELD:
        _users += 1
        for hooks in _KINDS:
            for key, hook in list(hooks.items()):
                if not isinstance(hook, _Elsewhere):
                    hooks[key] = _Elsewhere(hook)
    _silent.depth = getattr(_silent, "depth", 0) + 1
    try:
        yield
    finally:
        _silent.depth -= 1
        with _HELD:
            _users -= 1
            for hooks in _KINDS if not _users else ():
                for key, hook in list(hooks.items()):
                    if isinstance(hook, _Elsewhere):
                        hooks[key] = hook.hook
