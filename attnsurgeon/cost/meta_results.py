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


def result_of(
    func: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Tensor | None:
    """Returns an empty tensor in place of the result; None where the kernel has to run.

    Args:
        func: the operator as a dispatch mode receives it.
        args, kwargs: its arguments.
    """
    rule = _RULES.get(func._schema.name)
    if rule is None or not isinstance(args[0], Tensor) or not args[0].is_meta or args[0].ndim < 2:
        return None
    try:
        return rule(*args, **kwargs)
    except (TypeError, IndexError, ValueError):  # another form of the operator
        return None


def _batch_norm(x: Tensor, weight: Any, *_settings: Any) -> Tensor | None:
    if not isinstance(weight, Tensor) or weight.shape != x.shape[1:2]:
        return None
    return _like(x) if x.is_contiguous() else torch.empty_like(x)


def _layer_norm(x: Tensor, normalized: Sequence[int], *_settings: Any) -> Tensor | None:
    fits = tuple(normalized) == x.shape[-len(normalized) :]
    return _empty(x, x.shape) if fits else None


def _linear(x: Tensor, weight: Tensor, *_bias: Any) -> Tensor | None:
    fits = weight.shape[1:] == x.shape[-1:]
    return _empty(x, (*x.shape[:-1], weight.shape[0])) if fits else None


def _convolution(
    x: Tensor, weight: Tensor, bias: Any = None, stride: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0), dilation: Sequence[int] = (1, 1), groups: int = 1,
) -> Tensor | None:  # fmt: skip
    fits = x.ndim == 4 and weight.shape[1] * groups == x.shape[1] and x.dtype == weight.dtype
    if not fits or not isinstance(padding, (list, tuple)) or weight.shape[0] % groups:
        return None
    if not x.is_contiguous() or not weight.is_contiguous():
        return None
    sides = [
        (side + 2 * pad - gap * (kernel - 1) - 1) // step + 1
        for side, kernel, step, pad, gap in zip(
            x.shape[2:], weight.shape[2:], _two(stride), _two(padding), _two(dilation), strict=True
        )
    ]
    return _empty(x, (x.shape[0], weight.shape[0], *sides)) if min(sides) > 0 else None


def _two(setting: Sequence[int]) -> Sequence[int]:
    return tuple(setting) * 2 if len(setting) == 1 else setting


def _pointwise(x: Tensor, **_options: Any) -> Tensor | None:
    return _like(x) if _is_plain(x) else None


def _in_place(x: Tensor, **_options: Any) -> Tensor | None:
    return x if _is_plain(x) else None


def _arithmetic(x: Tensor, other: Any) -> Tensor | None:
    if not _is_plain(x):
        return None
    if type(other) in (int, float):
        return _like(x)
    fits = isinstance(other, Tensor) and other.is_meta and other.ndim == x.ndim
    if not fits or other.dtype != x.dtype or not other.is_contiguous():
        return None
    pairs = list(zip(x.shape, other.shape, strict=True))
    if any(a != b and 1 not in (a, b) for a, b in pairs):
        return None
    return _empty(x, tuple([b if a == 1 else a for a, b in pairs]))


def _added_in_place(x: Tensor, other: Any) -> Tensor | None:
    fits = isinstance(other, Tensor) and other.shape == x.shape and other.dtype == x.dtype
    return x if fits and _is_plain(x) else None


def _reduction(x: Tensor, axes: Any, keepdim: bool = False) -> Tensor | None:
    axes = [axes] if isinstance(axes, int) else axes
    if not isinstance(axes, (list, tuple)) or not axes or not _is_plain(x):
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
    return _like(x) if fits and _is_plain(x) else None


def _attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Any = None, *_settings: Any, **_options: Any
) -> Tensor | None:
    tensors = (query, key, value)
    if any(t.ndim != 4 or t.dtype != query.dtype for t in tensors) or _options.get("enable_gqa"):
        return None
    if query.shape[:2] != key.shape[:2] or key.shape[:3] != value.shape[:3]:
        return None
    if key.shape[-1] != query.shape[-1] or isinstance(mask, Tensor):
        return None
    return _empty(query, (*query.shape[:-1], value.shape[-1]))


def _is_plain(x: Tensor) -> bool:
    return x.is_floating_point() and x.is_contiguous()


def _like(x: Tensor) -> Tensor:
    return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device="meta")


def _empty(x: Tensor, shape: Sequence[int]) -> Tensor:
    return torch.empty(tuple(shape), dtype=x.dtype, device="meta")


_NAMES = ("relu", "silu", "gelu", "sigmoid", "tanh", "hardswish", "hardsigmoid", "mish")
_BY_NAME: Mapping[str, Callable[..., Tensor | None]] = {
    **dict.fromkeys(_NAMES, _pointwise),
    **dict.fromkeys([f"{name}_" for name in _NAMES], _in_place),
    **dict.fromkeys(("add", "sub", "mul", "div"), _arithmetic),
    **dict.fromkeys(("add_", "mul_"), _added_in_place),
    **dict.fromkeys(("mean", "sum", "amax", "amin"), _reduction),
    "batch_norm": _batch_norm,
    "layer_norm": _layer_norm,
    "linear": _linear,
    "conv2d": _convolution,
    "roll": _roll,
    "scaled_dot_product_attention": _attention,
}
_RULES = {f"aten::{name}": rule for name, rule in _BY_NAME.items()}
