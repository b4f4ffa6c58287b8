"""What every family of specs comes down to: a way to build one network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn


class _Unsaid:
    """Of an argument that was not given; None and False may be given."""

    def __repr__(self) -> str:
        return "..."


UNSAID: Any = _Unsaid()


@dataclass(frozen=True)
class Recipe:
    """How to build one network, and what weights it has where none were asked for.

    Attributes:
        build: called as `build(pretrained, model_args)`.
        weights: `random`, or `as built` where only the user's code knows.
        own: it is the user's code, which is given what the user gives and nothing else.
        adopt: called as `adopt(model, attributes)` after the weights of a whole pickled network
            have been loaded, with what was saved of that network beside its weights.
    """

    build: Callable[[bool, Mapping[str, Any]], nn.Module]
    weights: str = "random"
    own: bool = False
    adopt: Callable[[nn.Module, Mapping[str, Any]], None] = lambda model, attributes: None
