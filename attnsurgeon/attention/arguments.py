"""A constructor's signature and the values a user gave -> its complete, checked arguments."""

from __future__ import annotations

import inspect
import math
import re
import types
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from attnsurgeon.errors import MechanismError, nearest

REQUIRED = inspect.Parameter.empty
_NOT_FOR_USERS = ("self", "channels", "conv", "rank")


@cache
def defaults(build: Callable[..., Any]) -> Mapping[str, Any]:
    """Returns argument name -> default (REQUIRED where there is none), in order."""
    parameters = inspect.signature(build).parameters
    return types.MappingProxyType(
        {name: p.default for name, p in parameters.items() if name not in _NOT_FOR_USERS}
    )


@cache
def meanings(build: Callable[..., Any]) -> Mapping[str, str]:
    """Returns argument name -> the sentence about it, from the `Args:` of the docstring.

    Several names may share one: `groups, kernel_size: as published`. Without docstrings
    (python -OO) there are none.
    """
    text = inspect.getdoc(build) or ""
    section = re.search(r"^Args:\n((?:[ ]+.*\n|\n)*)", text + "\n", re.MULTILINE)
    found: dict[str, str] = {}
    entries = re.findall(r"^ {4}([\w, ]+): (.*(?:\n {5,}.*)*)", section[1] if section else "", re.M)
    for names, said in entries:
        found |= dict.fromkeys(names.split(", "), " ".join(said.split()))
    return types.MappingProxyType({name: found[name] for name in defaults(build) if name in found})


@cache
def takes(build: Callable[..., Any], name: str) -> bool:
    """Says whether `build` has a parameter of that name."""
    return name in inspect.signature(build).parameters


@cache
def _hints(build: Callable[..., Any]) -> Mapping[str, Any]:
    return get_type_hints(build.__init__ if inspect.isclass(build) else build)


def complete(build: Callable[..., Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Returns every argument of `build`: the given ones checked, the others by default.

    Raises:
        MechanismError: an argument is unknown, missing, or of the wrong type.
    """
    full = {**defaults(build), **checked(build, given)}
    missing = [name for name, value in full.items() if value is REQUIRED]
    if missing:
        raise MechanismError(f"{missing[0]} is missing", f"give {missing[0]}=...")
    return full


def checked(build: Callable[..., Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the given arguments of `build`, whatever others it needs.

    Raises:
        MechanismError: one is unknown, or of the wrong type.
    """
    known = defaults(build)
    for name in given:
        if name not in known:
            hint = nearest(name, known) if known else "it takes no arguments"
            raise MechanismError(f"there is no argument {name!r}", hint)
    hints = _hints(build)
    for name, value in given.items():
        if not _fits(value, hints[name]):
            raise MechanismError(
                f"{name}={value!r} is not {_words(hints[name])}", f"the default is {known[name]!r}"
            )
    return {name: tuple(v) if isinstance(v, list) else v for name, v in given.items()}


def _fits(value: Any, hint: Any) -> bool:
    """Says whether a value already parsed (Python, YAML, JSON) may stand for the annotation."""
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return any(_fits(value, option) for option in get_args(hint))
    if origin is Literal:
        return any(type(value) is type(option) and value == option for option in get_args(hint))
    if origin is tuple:
        member = get_args(hint)[0]
        return (
            isinstance(value, (tuple, list))
            and bool(value)
            and all(_fits(v, member) for v in value)
        )
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool) and value >= 1
    if hint is float:
        return (
            isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        )
    return isinstance(value, hint)


def _words(hint: Any) -> str:
    """Returns what a value of that annotation is, as the end of `... is not`."""
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(_words(option) for option in get_args(hint))
    if origin is Literal:
        return "one of " + ", ".join(repr(option) for option in get_args(hint))
    if origin is tuple:
        return f"a list, each {_words(get_args(hint)[0])}"
    plain = {
        int: "a whole number from 1 up",
        float: "a finite number",
        bool: "true or false",
        str: "a text",
        types.NoneType: "none",
    }
    return plain.get(hint, getattr(hint, "__name__", str(hint)))
