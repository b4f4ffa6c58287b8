"""The hooks on a copied network -> hooks that do the same, on copies of what they reach.

A hook may change what the network computes, so a copy that is run has to run it; it may as well
count its calls or collect what it sees, and that is the user's. copy.deepcopy copies an object
with its methods, but hands a function on as it is, with the lists in its closure and in its file.
Here it is made anew around copies of these. What refuses to be copied (an open file) is handed on.
"""

from __future__ import annotations

import copy
import functools
from collections import deque
from collections.abc import Callable, Iterator
from types import CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from torch import nn

_KINDS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_LIBRARIES = ("torch", "attnsurgeon")  # their hooks hold nothing of the user's
_HOLDERS = (list, dict, set, deque)
Memo = dict[Any, Any]


def keep_hooks_apart(twin: nn.Module, memo: Memo) -> None:
    """Lets the hooks on a deep copy reach nothing of the original.

    Args:
        twin: what copy.deepcopy made.
        memo: what it noted, by which a hook that holds the network holds the copy.
    """
    for module in twin.modules():
        for kind in _KINDS:
            hooks = vars(module).get(kind) or {}
            for key, hook in hooks.items():
                if _is_ours_to_copy(hook):
                    hooks[key] = _apart(hook, memo)


def _is_ours_to_copy(hook: Any) -> bool:
    function = getattr(hook, "func", getattr(hook, "__func__", hook))
    home = str(getattr(function, "__module__", "")).partition(".")[0]
    return isinstance(function, FunctionType) and home not in _LIBRARIES


class Apart:
    """A hook of the user's, with a state of its own.

    Args:
        hook: as it was hung; a pickle names this one.
        inner: what is called.
    """

    def __init__(self, hook: Any, inner: Callable[..., Any]) -> None:
        self.hook = hook
        self.inner = inner

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Does what the hook does."""
        return self.inner(*args, **kwargs)

    def __deepcopy__(self, memo: Memo) -> Apart:
        # First whose method it is; the function itself is handed on by that.
        return Apart(self.hook, _Copier(memo).of(copy.deepcopy(self.inner, memo)))

    def __reduce__(self) -> Any:
        return _apart, (self.hook,)


def _apart(hook: Any, memo: Memo | None = None) -> Apart:
    memo = {} if memo is None else memo
    key = (Apart, id(hook))  # equal blocks with one hook stay equal
    if key not in memo:
        memo[key] = Apart(hook, _Copier(memo).of(hook))
    return memo[key]


class _Copier:
    """Makes functions anew around copies of what they refer to."""

    def __init__(self, memo: Memo) -> None:
        self.memo = memo

    def of(self, hook: Any) -> Any:
        """The copy of a function, of a method, or of a partial call of one."""
        if isinstance(hook, functools.partial):
            return functools.partial(self.of(hook.func), *hook.args, **hook.keywords)
        if isinstance(hook, MethodType):
            return MethodType(self.of(hook.__func__), hook.__self__)
        return self.function(hook) if isinstance(hook, FunctionType) else hook

    def function(self, function: FunctionType) -> FunctionType:
        key = (FunctionType, id(function))
        if key in self.memo:
            return self.memo[key]
        # Its cells and names may lead back to it: it is known before they are copied.
        cells = tuple(CellType() for _ in function.__closure__ or ())
        scope = self.scope(function.__globals__)
        twin = FunctionType(
            function.__code__, scope, function.__name__, function.__defaults__, cells
        )
        self.memo[key] = twin
        vars(twin).update(vars(function))
        twin.__module__, twin.__qualname__ = function.__module__, function.__qualname__
        twin.__kwdefaults__ = self.value(function.__kwdefaults__, scope)
        twin.__defaults__ = self.value(function.__defaults__, scope)
        for cell, original in zip(cells, function.__closure__ or (), strict=True):
            try:
                held = original.cell_contents
            except ValueError:  # not filled yet
                continue
            cell.cell_contents = self.value(held, scope)
        for name in set(_names_in(function.__code__)) & function.__globals__.keys():
            scope[name] = self.value(function.__globals__[name], scope)
        return twin

    def scope(self, names: dict[str, Any]) -> dict[str, Any]:
        """The copy of a file's names: what a hook assigns to them stays in it."""
        key = (dict, id(names))
        if key not in self.memo:
            self.memo[key] = dict(names)
        return self.memo[key]

    def value(self, value: Any, scope: dict[str, Any]) -> Any:
        if isinstance(value, (ModuleType, type)):
            return value
        if isinstance(value, FunctionType):
            same_file = self.scope(value.__globals__) is scope
            return self.function(value) if same_file else value
        try:
            return copy.deepcopy(value, self.memo)
        except Exception:  # whatever an object raises that is not to be copied
            return copy.copy(value) if isinstance(value, _HOLDERS) else value


def _names_in(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names_in(constant)
