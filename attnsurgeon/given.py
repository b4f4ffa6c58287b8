"""What a call was given where it takes a network -> that it is one, or what to give instead."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, TypeVar

from torch import nn

from attnsurgeon.errors import UsageError

P = ParamSpec("P")
R = TypeVar("R")


def takes_networks(
    *names: str, or_else: tuple[type, ...] = ()
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """A decorator: refuse what is no network before anything is done with it.

    Args:
        names: of the parameters that take one, "model" where none are given.
        or_else: what they take beside it.
    """
    wanted = names or ("model",)

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def checked(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                given = signature.bind(*args, **kwargs).arguments
            except TypeError:  # which the call itself says better
                given = {}
            for name in wanted:
                if name in given and not isinstance(given[name], (nn.Module, *or_else)):
                    raise no_network(function.__name__, name, given[name])
            return function(*args, **kwargs)

        return checked

    return decorate


def no_network(function: str, name: str, value: Any) -> UsageError:
    """Return the error for what was given to a function where it takes a network."""
    named = isinstance(value, (str, os.PathLike))
    shown = repr(value) if named else f"something of type {type(value).__name__}"
    return UsageError(
        f"{function} takes a network as {name!r}, a torch.nn.Module, and was given {shown}",
        _instead(value),
    )


def _instead(value: Any) -> str:
    if isinstance(value, (str, os.PathLike)):
        if os.path.isdir(value):
            return f"attnsurgeon.load({str(value)!r}) reads the network of a saved folder"
        return f"attnsurgeon.load_model({str(value)!r}) builds the network of a name"
    if isinstance(value, type):
        return f"make one of it first: {value.__name__}()"
    if isinstance(getattr(value, "model", None), nn.Module):
        return f"give the network that it holds: the {type(value).__name__}'s .model"
    if isinstance(value, Mapping):
        held = [name for name, one in value.items() if isinstance(one, nn.Module)]
        if held:
            return f"give the network that it holds: [{held[0]!r}]"
        return "build the network, and load its weights: network.load_state_dict(...)"
    return "give the network itself"
