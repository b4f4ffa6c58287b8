"""A value of any layout -> an attention, which expects channels on axis 1, and back.

The same is done in three places: as nodes of generated code, in hooks, and in the forward of a
module that was taken over.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.fx
from torch import Tensor, fx, nn

from attnsurgeon.planning.cut import Way
from attnsurgeon.splicing.parts import CHANNELS_FIRST

Steps = list[tuple[str, tuple[Any, ...]]]
_CHANNELS_LAST = {"NHWC": (0, 2, 3, 1), "NDHWC": (0, 2, 3, 4, 1)}


def _steps(layout: str) -> tuple[Steps, Steps]:
    """The methods that bring the channels of a value to axis 1, and those that bring them back."""
    if layout in CHANNELS_FIRST:
        return [("permute", CHANNELS_FIRST[layout])], [("permute", _CHANNELS_LAST[layout])]
    if layout == "NLC":
        return (
            [("transpose", (1, 2)), ("unsqueeze", (3,))],
            [("squeeze", (3,)), ("transpose", (1, 2))],
        )
    if layout == "NCL":
        return [("unsqueeze", (3,))], [("squeeze", (3,))]
    return [], []


def sides_alike(sides: tuple[int, ...], number: Any) -> tuple[Any, ...] | None:
    """Returns the sides of a map of `number` positions in the same proportions; None of no map.

    While torch.jit traces, sizes are tensors, and so are the sides: what they are is computed at
    every run of the traced graph, which cannot say that there is no such map.
    """
    common = math.gcd(*sides)
    unit = tuple(side // common for side in sides)
    times = (number / math.prod(unit)) ** (1 / len(unit))
    if isinstance(times, Tensor):
        times = times.round().long()
        return tuple(side * times for side in unit)
    times = round(times)
    same = times > 0 and times ** len(unit) * math.prod(unit) == number
    return tuple(side * times for side in unit) if same else None


@torch.fx.wrap
def map_of(x: Tensor, sides: tuple[int, ...], before: int, after: int) -> Tensor:
    """Returns the map that stands in tokens (N, before + H W + after, C), as (N, C, H, W).

    Args:
        x: the tokens.
        sides: of the map as it was recorded; another number of tokens is taken for a map of the
            same proportions.
        before, after: tokens of no position, which are left out.
    """
    number = x.shape[1] - before - after
    now = sides_alike(sides, number)
    if now is None:
        shown = " x ".join(map(str, sides))
        raise RuntimeError(
            f"attention on tokens was inserted for a map of {shown}, or one of the same "
            f"proportions; {number} tokens are none"
        )
    return x[:, before : before + number].transpose(1, 2).unflatten(2, now)


@torch.fx.wrap
def tokens_of(y: Tensor, x: Tensor, before: int, after: int) -> Tensor:
    """Returns a map (N, C, H, W) as tokens again, between those of `x` that are in no map."""
    tokens = y.flatten(2).transpose(1, 2)
    if not before and not after:
        return tokens
    parts = (x[:, :before], tokens.to(x.dtype), x[:, x.shape[1] - after :])
    return torch.cat(parts, 1)


@torch.fx.wrap
def as_the_sum(y: Tensor, first: Tensor, second: Tensor | None) -> Tensor:
    """Returns `y` with the strides of `first + second`, or of `first` alone.

    What goes on from an addition may add up along its memory: with other strides the same numbers
    give other last digits.
    """
    if torch.compiler.is_compiling() or (second is None and first.stride() == y.stride()):
        return y
    if second is not None:
        if first.stride() == second.stride() == y.stride():
            return y
        shapes = [torch.empty_strided(t.shape, t.stride(), device="meta") for t in (first, second)]
        first = shapes[0] + shapes[1]
        if first.stride() == y.stride():
            return y
    order = sorted(range(y.dim()), key=first.stride().__getitem__, reverse=True)
    back = [order.index(axis) for axis in range(y.dim())]
    return y.permute(order).contiguous().permute(back)


def through(attention: nn.Module, way: Way, *values: Tensor) -> Tensor:
    """Runs an attention on values of any layout."""
    if not isinstance(way, str):
        made = attention(*(map_of(value, *way) for value in values))
        return tokens_of(made, values[0], *way[1:])
    ahead, back = _steps(way)
    for name, args in ahead:
        values = tuple(getattr(value, name)(*args) for value in values)
    made = attention(*values)
    for name, args in back:
        made = getattr(made, name)(*args)
    return made


def call_through(graph: fx.Graph, name: str, way: Way, values: list[fx.Node]) -> fx.Node:
    """Adds `through(self.name, way, *values)` at the insertion point, as plain nodes."""
    if not isinstance(way, str):
        maps = tuple(graph.call_function(map_of, (value, *way)) for value in values)
        made = graph.call_module(name, maps)
        return graph.call_function(tokens_of, (made, values[0], *way[1:]))
    ahead, back = _steps(way)
    made_of: list[fx.Node] = []
    for value in values:
        for method, args in ahead:
            value = graph.call_method(method, (value, *args))
        made_of.append(value)
    last = graph.call_module(name, tuple(made_of))
    for method, args in back:
        last = graph.call_method(method, (last, *args))
    return last


@dataclass
class OutputHook:
    """Forward hook: hands the module's output through its child `name`."""

    name: str
    way: Way

    def __call__(self, module: nn.Module, args: Any, output: Tensor) -> Tensor:
        """Returns the output after attention."""
        return through(module.get_submodule(self.name), self.way, output)


@dataclass
class InputHook:
    """Forward pre-hook: hands the module's first input through its child `name`."""

    name: str
    way: Way

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Returns the inputs with attention on the first."""
        return through(module.get_submodule(self.name), self.way, args[0]), *args[1:]
