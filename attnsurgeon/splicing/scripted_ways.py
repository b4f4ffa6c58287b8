"""The functions that generated code calls, in words of TorchScript.

Each does what its namesake does (`channels_first.py`, `attention/weights/each.py`).
"""

# ruff: noqa: RUF005, RUF046 -- TorchScript knows no starred lists, and floor as of floats

import functools
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def map_of(x: Tensor, sides: list[int], before: int, after: int) -> Tensor:
    """Returns the map that stands in tokens."""
    number = x.shape[1] - before - after
    common = sides[0]
    for side in sides:
        common = math.gcd(common, side)
    positions = 1
    for side in sides:
        positions *= side // common
    times = int(math.floor((float(number) / positions) ** (1.0 / len(sides)) + 0.5))
    now = [side // common * times for side in sides]
    made = 1
    for side in now:
        made *= side
    assert made == number, "these tokens are no map of the proportions that were recorded"
    return x[:, before : before + number].transpose(1, 2).unflatten(2, now)


def tokens_of(y: Tensor, x: Tensor, before: int, after: int) -> Tensor:
    """Returns a map as tokens again."""
    tokens = y.flatten(2).transpose(1, 2)
    if before == 0 and after == 0:
        return tokens
    return torch.cat([x[:, :before], tokens.to(x.dtype), x[:, x.shape[1] - after :]], 1)


def as_the_sum(y: Tensor, first: Tensor, second: Tensor | None) -> Tensor:
    """Returns `y` with the strides of a sum."""
    like = first
    if second is not None and not (first.stride() == second.stride() == y.stride()):
        meta = torch.device("meta")
        like = torch.empty_strided(
            first.shape, first.stride(), dtype=first.dtype, device=meta
        ) + torch.empty_strided(second.shape, second.stride(), dtype=second.dtype, device=meta)
    if like.stride() == y.stride():
        return y
    strides = torch.tensor(like.stride())
    order = torch.sort(strides, stable=True, descending=True)[1]
    back = torch.sort(order)[1]
    return y.permute([int(n) for n in order]).contiguous().permute([int(n) for n in back])


def parts_of(weight: Any) -> tuple[Tensor, Tensor | None]:
    """Returns what each image adds, or all of its weight, and what all images share."""
    if isinstance(weight, Tensor):
        return weight, None
    assert torch.jit.isinstance(weight, tuple[Tensor, Tensor])
    return weight[1], weight[0]


def convolve_each(
    input: Tensor,
    weight: Any,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
) -> Tensor:
    """Returns the convolution of image n with weight n."""
    none = [0] * len(stride)
    each, common = parts_of(weight)
    images, rank = input.shape[0], input.dim() - 2
    folded = input.reshape([1, images * input.shape[1]] + list(input.shape[2:]))
    made = torch.convolution(
        folded,
        each.flatten(0, 1),
        None,
        stride,
        padding,
        dilation,
        False,
        none,
        images * groups,
    )
    made = made.reshape([images, each.shape[1]] + list(made.shape[2:]))
    if rank == 2 and input.is_contiguous(memory_format=torch.channels_last):
        made = made.contiguous(memory_format=torch.channels_last)
    if rank == 3 and input.is_contiguous(memory_format=torch.channels_last_3d):
        made = made.contiguous(memory_format=torch.channels_last_3d)
    if common is not None:
        return (
            torch.convolution(input, common, bias, stride, padding, dilation, False, none, groups)
            + made
        )
    return made if bias is None else made + bias.reshape([1, -1] + [1] * rank)


@functools.cache
def scripted_ways() -> Mapping[str, Any]:
    """Returns the functions by name, compiled."""
    return {f.__name__: torch.jit.script(f) for f in (map_of, tokens_of, as_the_sum, convolve_each)}
