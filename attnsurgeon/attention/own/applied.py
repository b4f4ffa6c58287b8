"""A module of the user's own -> one that takes a map and returns a map of the same form.

What the user's module returns decides what is done with it:

    (N, C, ...)                          the new map itself
    (N, C), (N, C, 1, 1), (N, 1, H, W)   a gate, so y = x * gate

    y = old + g * (new - old), learnable g = 0, of a start as identity

where old is x, or branch + shortcut for what takes both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.fx
from torch import Tensor, nn

from attnsurgeon.errors import MechanismError


@torch.fx.wrap
def as_map(made: Any, x: Tensor, name: str) -> Tensor:
    """Returns what a user's module made of `x` as a map of the shape and dtype of `x`.

    Raises:
        MechanismError: it is no tensor, or neither a map nor a gate for `x`.
    """
    if not isinstance(made, Tensor):
        raise MechanismError(
            f"{name} returns {_kind(made)}, not a tensor",
            "return the new map, or the gate that it is to be multiplied with",
        )
    if made.shape == x.shape:
        return made.to(x.dtype)
    gate = made
    if made.dim() == 2 and made.shape == x.shape[:2]:
        gate = made[(...,) + (None,) * (x.dim() - 2)]
    fits = gate.dim() == x.dim() and all(
        g == n or g == 1
        for g, n in zip(gate.shape, x.shape)  # noqa: B905 -- as compiled
    )
    if not fits:
        raise MechanismError(
            f"{name} makes {_shape(made)} of {_shape(x)}",
            "it has to return a map of the shape of its input, or a gate: (N, C), (N, C, 1, 1) or"
            " (N, 1, H, W)",
        )
    return x * gate.to(x.dtype)


def _kind(made: Any) -> str:
    if isinstance(made, (tuple, list)):
        return f"a {type(made).__name__} of {len(made)}"
    return f"a value of type {type(made).__name__}" if made is not None else "nothing"


def _shape(tensor: Tensor) -> str:
    return str(tuple(tensor.shape))


class Applied(nn.Module):
    """The user's module on one map.

    Args:
        inner: the user's.
        name: of the mechanism, for errors.

    Shape:
        x (N, C, ...) -> (N, C, ...)
    """

    g: nn.Parameter | None

    def __init__(self, inner: nn.Module, name: str) -> None:
        super().__init__()
        self.inner = inner
        self.name = name
        self.register_parameter("g", None)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the new map; of a start as identity the blend."""
        new = as_map(self.inner(x), x, self.name)
        return new if self.g is None else torch.lerp(x, new, self.g.to(x.dtype))

    def extra_repr(self) -> str:
        """Returns the mechanism's name."""
        return self.name


class AppliedPair(Applied):
    """The user's module on the branch and the shortcut of an addition, in its place."""

    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        """Returns the new sum; of a start as identity the blend with branch + shortcut."""
        new = same(self.inner(x, other), x, self.name)
        if self.g is None:
            return new
        old = x + other
        return torch.lerp(old, new.to(old.dtype), self.g.to(old.dtype))


@torch.fx.wrap
def same(made: Any, x: Tensor, name: str) -> Tensor:
    """Returns what a user's module made of two maps, which has to be one of their shape."""
    if isinstance(made, Tensor) and made.shape != x.shape:
        raise MechanismError(
            f"{name} makes {_shape(made)} of two maps of {_shape(x)}",
            "what takes the place of an addition has to return a map of that shape",
        )
    return as_map(made, x, name)


def blended(module: nn.Module, replaced: nn.Module | None) -> nn.Module:
    """Returns an `Applied` that starts as the identity."""
    module.register_parameter("g", nn.Parameter(torch.zeros(1)))
    return module


class OnValues(nn.Module):
    """In the place of a module on meta that looks at values: runs the like of it on random ones.

    Args:
        build: makes the module that is run, on the CPU.
        standing: the module on meta, for its parameters.
    """

    def __init__(self, build: Callable[[], nn.Module], standing: nn.Module) -> None:
        super().__init__()
        self.standing = standing
        with torch.device("cpu"):
            self._run = (build().eval(),)  # no child: its parameters are those of `standing`

    def forward(self, *values: Tensor) -> Any:
        """Returns what the module makes of random maps of these shapes, on meta."""
        with torch.device("cpu"):
            made = self._run[0](*(torch.rand(x.shape, dtype=x.dtype) for x in values))
        return torch.empty_like(made, device="meta") if isinstance(made, Tensor) else made


class Function(nn.Module):
    """A function of tensors as a module, without parameters.

    Args:
        function: of one map or two.
        given: its other arguments, by name.
    """

    def __init__(self, function: Callable[..., Any], given: Mapping[str, Any]) -> None:
        super().__init__()
        self.function = function
        self.given = dict(given)

    def forward(self, *values: Tensor) -> Any:
        """Returns what the function returns."""
        return self.function(*values, **self.given)

    def extra_repr(self) -> str:
        """Returns the function's name."""
        return getattr(self.function, "__name__", "")
