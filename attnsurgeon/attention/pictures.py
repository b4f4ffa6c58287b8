"""What a mechanism did to an input, as named tensors: the pictures, and where a card finds its own.

A forward is watched from outside, so none of this costs anything when nobody looks: what was it
given, what did it return, by which factors did it multiply on the way, what came out of its
sigmoids and softmaxes. A picture is read off that, or off the module's own weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from attnsurgeon.errors import UsageError
from attnsurgeon.shown import brief

# Name -> shape and meaning; (H, W) is (L,) of a signal and (D, H, W) of a clip.
PICTURES: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "channel": ("(N, C)", "what each channel is multiplied by"),
        "spatial": ("(N, H, W)", "what each position is multiplied by"),
        "both": ("(N, C, H, W)", "what each value is multiplied by, where that is no such product"),
        "samples": ("(N,)", "what each sample of the batch is multiplied by"),
        "branches": ("(N, M, C)", "the share that each of M branches has in each channel"),
        "fusion": (
            "(N, M, C, H, W)",
            "what each of the M terms of an addition is multiplied by; (N, M, C) where that is the "
            "same at all positions",
        ),
        "classes": ("(N, K, H, W)", "with which weights each class looks at the positions"),
        "stages": ("(M,)", "the weight of each stage's vote, the oldest first"),
        "attention": ("(N, H, W)", "with which weights one position looks at the others"),
        "weights": (
            "(C, C_in, ...)",
            "what the weight of a convolution is multiplied by, (N, C, C_in, ...) where each image "
            "has its own; of nam (C,), how much each channel's scale counts",
        ),
        "tokens": (
            "(N, T)",
            "of a row of tokens, that of the tokens of no position (class, registers), which are "
            "in no map; (N, C, T) beside `both`",
        ),
        "blend": (
            "()",
            "the weight with which the mechanism is blended in; 0 leaves all as it was",
        ),
        "change": ("(N,)", "norm of y - x over that of x, y what goes on and x what else would"),
    }
)  # fmt: skip
Factors = Sequence[Tensor]


@dataclass(frozen=True, eq=False)
class Seen:
    """What was seen of one run of a mechanism.

    Attributes:
        module: the mechanism, without what blends it in or hands it its values.
        values: what it was given, as `Mechanism.inputs` names it, each (N, C, ...).
        output: what came of it, blended in where it is.
        factors: where the output is a sum of the values, each times something: the factors of
            each value, of as many axes, of length 1 where they are the same; None of a value
            that is not in the sum. None where the output is no such sum.
        results: "sigmoid", "softmax" -> what each call of it gave, in order.
        position: of `attention`, as fractions of the axes.
    """

    module: Any
    values: tuple[Tensor, ...]
    output: Any
    factors: tuple[Factors | None, ...] | None
    results: Mapping[str, Sequence[Tensor]]
    position: tuple[float, ...] | None = None

    def last(self, function: str) -> Tensor:
        """Returns the last result of a function."""
        return self.results[function][-1]


@dataclass(frozen=True, repr=False)
class Picture:
    """What a card says of its pictures.

    Attributes:
        names: which of `PICTURES` it has, with the default arguments; () where that is not known
            ahead.
        how: what they are, in a sentence.
        read: makes them from what was seen; of the names only those that there are.
    """

    names: tuple[str, ...]
    how: str
    read: Callable[[Seen], Mapping[str, Tensor]]

    def __repr__(self) -> str:
        return brief(self, f"{', '.join(self.names) or 'as seen'}: {self.how}")


def multiplied(*names: str, how: str) -> Picture:
    """Returns the picture of a gate: what the first value was multiplied by.

    Args:
        names: which of "channel", "spatial", "both" and "samples" its factors are.
        how: the sentence.
    """

    def read(seen: Seen) -> Mapping[str, Tensor]:
        return gates_of(seen, names)

    return Picture(names, how, read)


def gates_of(seen: Seen, names: Sequence[str] = ()) -> dict[str, Tensor]:
    """Returns the factors of the first value, those of one name multiplied; {} where the output is
    not that value times something.

    Args:
        seen: of the run.
        names: what they are called, where their shapes leave that open; a factor takes the first
            that it can be.
    """
    if seen.factors is None or any(f is not None for f in seen.factors[1:]):
        return {}
    x, factors = seen.values[0], seen.factors[0]
    if factors is None:
        return {}
    found: dict[str, Tensor] = {}
    for factor in factors or [x.new_ones((1,) * x.dim())]:
        could = _names_for(factor, x)
        name = next((name for name in names if name in could), could[0])
        found[name] = found[name] * factor if name in found else factor
    return {name: _shaped(name, found[name], x) for name in sorted(found, key=_ORDER.index)}


_ORDER = tuple(PICTURES)


def _names_for(factor: Tensor, x: Tensor) -> list[str]:
    """What a factor of a value (N, C, ...) can be, the most special first."""
    anywhere = all(side == 1 for side in factor.shape[2:])
    any_channel = factor.shape[1] == 1
    could = {
        "samples": anywhere and any_channel,
        "channel": anywhere and factor.shape[1] == x.shape[1],
        "spatial": any_channel,
        "both": True,
    }
    return [name for name, is_one in could.items() if is_one]


def _shaped(name: str, factor: Tensor, x: Tensor) -> Tensor:
    if name == "samples":
        return factor.expand(len(x), 1, *factor.shape[2:]).flatten()
    if name == "channel":
        return factor.expand(*x.shape[:2], *factor.shape[2:]).flatten(1)
    if name == "spatial":
        return factor.expand(len(x), 1, *x.shape[2:]).squeeze(1)
    return factor.expand_as(x)


def fused(how: str) -> Picture:
    """Returns the picture of an addition whose terms are weighed."""
    return Picture(("fusion",), how, terms_of)


def terms_of(seen: Seen) -> dict[str, Tensor]:
    """Returns what each value is multiplied by before they are added; {} where they are not."""
    if seen.factors is None:
        return {}
    x = seen.values[0]
    terms = [_product(factors, x) for factors in seen.factors]
    whole = any(side > 1 for term in terms for side in term.shape[2:])
    if whole:
        return {"fusion": torch.stack([term.expand_as(x) for term in terms], dim=1)}
    one = (1,) * (x.dim() - 2)
    return {"fusion": torch.stack([t.expand(*x.shape[:2], *one).flatten(1) for t in terms], dim=1)}


def _product(factors: Factors | None, x: Tensor) -> Tensor:
    if factors is None:
        return x.new_zeros((1,) * x.dim())
    made = x.new_ones((1,) * x.dim())
    for factor in factors:
        made = made * factor
    return made


def index_of(position: tuple[float, ...] | None, sides: Sequence[int]) -> tuple[int, ...]:
    """Returns the index of a position of a map, of None of the centre.

    Raises:
        UsageError: the position has another number of axes.
    """
    asked = position or (0.5,) * len(sides)
    if len(asked) != len(sides):
        raise UsageError(
            f"position={position} has {len(asked)} numbers, and the map {len(sides)} axes",
            f"give a fraction of each axis: position={(0.5,) * len(sides)} is the centre",
        )
    return tuple(min(int(at * side), side - 1) for at, side in zip(asked, sides, strict=True))


def _as_seen(seen: Seen) -> Mapping[str, Tensor]:
    return terms_of(seen) if len(seen.values) > 1 else gates_of(seen)


# Of a mechanism of which nothing is known ahead.
AS_SEEN = Picture(
    (),
    "what it multiplies its input by, found while it runs; where it is no product of its input, "
    "how much it changes that",
    _as_seen,
)
