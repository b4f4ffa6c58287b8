"""An operator on meta tensors -> its result by shape alone, where torch takes long to find it.

Many meta kernels are decompositions in Python, up to some milliseconds a call: of resnet50's
forward on meta, batch norms took 55 ms of 61. What does not fit a rule here goes to the kernel,
for its result or its message.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload


def result_of(func: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor | None:
    """Returns an empty tensor in place of the result; None where the kernel has to run.

    Args:
        func: the operator as a dispatch mode receives it.
        args, kwargs: its arguments.
    """
    rule = _RULES.get(func._schema.name)
    if rule is None:
        return None
    first = args[0][0] if isinstance(args[0], (list, tuple)) else args[0]
    if not isinstance(first, Tensor) or not first.is_meta or not first.ndim:
        return None
    try:
        return rule(*args, **kwargs)
    except (TypeError, IndexError, ValueError):  # another form of the operator
        return None


def _batch_norm(x: Tensor, weight: Any, *_settings: Any) -> Tensor | None:
    if not isinstance(weight, Tensor) or weight.shape != x.shape[1:2]:
        return None
    return _like(x) if _is_dense(x) else torch.empty_like(x)


def _layer_norm(x: Tensor, normalized: Sequence[int], *_settings: Any) -> Tensor | None:
    fits = tuple(normalized) == x.shape[-len(normalized) :]
    return _empty(x, x.shape) if fits else None


def _linear(x: Tensor, weight: Tensor, *_bias: Any) -> Tensor | None:
    fits = weight.shape[1:] == x.shape[-1:]
    return _empty(x, (*x.shape[:-1], weight.shape[0])) if fits else None


def _convolution(
    x: Tensor, weight: Tensor, bias: Any = None, stride: Any = 1, padding: Any = 0,
    dilation: Any = 1, groups: int = 1,
) -> Tensor | None:  # fmt: skip
    rank = weight.ndim - 2
    fits = x.ndim == weight.ndim and weight.shape[1] * groups == x.shape[1]
    if not fits or x.dtype != weight.dtype or weight.shape[0] % groups:
        return None
    if not x.is_contiguous() or not weight.is_contiguous():
        return None
    step, gap = _each(stride, rank), _each(dilation, rank)
    reach = [one * (kernel - 1) for one, kernel in zip(gap, weight.shape[2:], strict=True)]
    if padding == "same" and set(step) == {1}:
        padded = reach
    elif isinstance(padding, str):
        return None
    else:
        padded = [2 * one for one in _each(padding, rank)]
    sides = [
        (side + more - less - 1) // one + 1
        for side, more, less, one in zip(x.shape[2:], padded, reach, step, strict=True)
    ]
    return _empty(x, (x.shape[0], weight.shape[0], *sides)) if min(sides) > 0 else None


def _each(setting: Any, rank: int) -> Sequence[int]:
    if isinstance(setting, int):
        return (setting,) * rank
    return tuple(setting) * rank if len(setting) == 1 else setting


def _pointwise(x: Tensor, **_options: Any) -> Tensor | None:
    return _like(x) if _is_dense(x) else None


def _in_place(x: Tensor, **_options: Any) -> Tensor | None:
    return x if _is_dense(x) else None


def _arithmetic(x: Tensor, other: Any) -> Tensor | None:
    """The layout is that of the first, where it has every side of the result."""
    if not _is_dense(x):
        return None
    if type(other) in (int, float):
        return _like(x)
    if not isinstance(other, Tensor) or not other.is_meta or other.dtype != x.dtype:
        return None
    ahead = x.ndim - other.ndim
    if ahead >= 0 and all(b in (1, a) for a, b in zip(x.shape[ahead:], other.shape, strict=True)):
        return _like(x)
    if ahead or not (x.is_contiguous() and other.is_contiguous()):
        return None
    pairs = list(zip(x.shape, other.shape, strict=True))
    fits = all(a == b or 1 in (a, b) for a, b in pairs)
    return _empty(x, [b if a == 1 else a for a, b in pairs]) if fits else None


def _changed_by(x: Tensor, other: Any) -> Tensor | None:
    fits = isinstance(other, Tensor) and other.shape == x.shape and other.dtype == x.dtype
    return x if fits and _is_dense(x) else None


def _together(tensors: Any, axis: int = 0) -> Tensor | None:
    first = tensors[0]
    for one in tensors:
        if one.ndim != first.ndim or one.dtype != first.dtype or not one.is_contiguous():
            return None
    if not -first.ndim <= axis < first.ndim:
        return None
    axis %= first.ndim
    shape = list(first.shape)
    if any(list(t.shape[:axis]) != shape[:axis] or list(t.shape[axis + 1 :]) != shape[axis + 1 :]
           for t in tensors):  # fmt: skip
        return None
    shape[axis] = sum(t.shape[axis] for t in tensors)
    return _empty(first, shape)


def _stacked(tensors: Any, axis: int = 0) -> Tensor | None:
    first = tensors[0]
    for one in tensors:
        if one.shape != first.shape or one.dtype != first.dtype or not one.is_contiguous():
            return None
    if axis != 0:
        return None
    return _empty(first, (len(tensors), *first.shape))


def _dropout(x: Tensor, share: float, train: bool) -> Tensor | None:
    return None if train else x


def _reduction(x: Tensor, axes: Any, keepdim: bool = False) -> Tensor | None:
    axes = [axes] if isinstance(axes, int) else axes
    if not isinstance(axes, (list, tuple)) or not axes or not x.is_floating_point():
        return None
    if not all(-x.ndim <= axis < x.ndim for axis in axes):
        return None
    gone = {axis % x.ndim for axis in axes}
    sides = [1 if at in gone else side for at, side in enumerate(x.shape)]
    if not keepdim:
        sides = [side for at, side in enumerate(sides) if at not in gone]
    return _empty(x, tuple(sides)) if len(gone) == len(axes) else None


def _roll(x: Tensor, shifts: Any, axes: Any = ()) -> Tensor | None:
    fits = isinstance(axes, (list, tuple)) and isinstance(shifts, (list, tuple))
    fits = fits and len(axes) == len(shifts) and all(-x.ndim <= axis < x.ndim for axis in axes)
    return _like(x) if fits and _is_dense(x) and x.is_contiguous() else None


def _attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Any = None, *_settings: Any, **_options: Any
) -> Tensor | None:
    tensors = (query, key, value)
    if any(t.ndim != 4 or t.dtype != query.dtype for t in tensors) or _options.get("enable_gqa"):
        return None
    if query.shape[:2] != key.shape[:2] or key.shape[:3] != value.shape[:3]:
        return None
    if key.shape[-1] != query.shape[-1]:
        return None
    if isinstance(mask, Tensor):
        sides = (query.shape[-2], key.shape[-2])
        if mask.ndim < 2 or any(
            m not in (1, s) for m, s in zip(mask.shape[-2:], sides, strict=True)
        ):
            return None
    return _empty(query, (*query.shape[:-1], value.shape[-1]))


def _is_dense(x: Tensor) -> bool:
    """Whether the elements of a tensor lie one behind the other, in whatever order of axes."""
    if not x.is_floating_point():
        return False
    if x.is_contiguous():
        return True
    expected = 1
    for stride, side in sorted(zip(x.stride(), x.shape, strict=True)):
        if side != 1:
            if stride != expected:
                return False
            expected *= side
    return True


def _like(x: Tensor) -> Tensor:
    return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device="meta")


def _empty(x: Tensor, shape: Sequence[int]) -> Tensor:
    return torch.empty(tuple(shape), dtype=x.dtype, device="meta")


_NAMES = ("relu", "silu", "gelu", "sigmoid", "tanh", "hardswish", "hardsigmoid", "mish")
_BY_NAME: Mapping[str, Callable[..., Tensor | None]] = {
    **dict.fromkeys(_NAMES, _pointwise),
    **dict.fromkeys([f"{name}_" for name in _NAMES], _in_place),
    **dict.fromkeys(("add", "sub", "mul", "div"), _arithmetic),
    **dict.fromkeys(("add_", "mul_"), _changed_by),
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), _convolution),
    **dict.fromkeys(("mean", "sum", "amax", "amin"), _reduction),
    "batch_norm": _batch_norm,
    "layer_norm": _layer_norm,
    "linear": _linear,
    "roll": _roll,
    "cat": _together,
    "stack": _stacked,
    "dropout": _dropout,
    "scaled_dot_product_attention": _attention,
}
_RULES = {f"aten::{name}": rule for name, rule in _BY_NAME.items()}
