"""A torch function called on meta tensors -> its result by shape alone, where that is simple.

Many meta kernels are decompositions in Python, of a millisecond a call: most of a forward on meta.
What is not simple (arguments that do not fit, other types, changes in place) goes to the function
itself, for its result or its message. The layout in memory is that of the kernels on values.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any, Union

import torch
from torch import Tensor
from torch.nn import functional as F

_LAST = torch.channels_last
Made = Union[Tensor, tuple[Tensor, ...], None]  # noqa: UP007 -- evaluated by Python 3.10
Rule = Callable[..., Made]


def shape_only(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Made:
    """Returns empty tensors in place of the result; None where the function has to be called."""
    rule = _RULES.get(func) if isinstance(func, _HASHABLE) else None
    if rule is None or not args or not _is_plain(args[0]):
        return None
    if torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda"):
        return None
    try:
        return rule(*args, **kwargs)
    except (TypeError, IndexError):  # other arguments than the rule knows
        return None


def _is_plain(x: Any) -> bool:
    return type(x) is Tensor and x.is_meta and x.is_floating_point() and x.dim() > 0


def _pointwise(x: Tensor, *rest: Any, **options: Any) -> Tensor | None:
    in_place = options.get("inplace") or any(value is True for value in rest)
    return None if in_place or "out" in options else torch.empty_like(x)


def _batch_norm(
    x: Tensor, mean: Any, variance: Any, weight: Any = None, bias: Any = None,
    training: bool = False, momentum: float = 0.1, eps: float = 1e-5,
) -> Tensor | None:  # fmt: skip
    if mean is None and variance is None:  # a weight is standardised; nothing is kept of it
        fits = training and x[0, 0].numel() * x.shape[0] > 1
    else:
        fits = not training and isinstance(mean, Tensor) and mean.shape == x.shape[1:2]
    if x.dim() < 2 or not fits:
        return None
    dense = x.is_contiguous() or (x.dim() == 4 and x.is_contiguous(memory_format=_LAST))
    return torch.empty_like(x) if dense else None


def _layer_norm(
    x: Tensor, normalized_shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5
) -> Tensor | None:
    shape = tuple(normalized_shape)
    given = [tuple(t.shape) for t in (weight, bias) if t is not None]
    if not shape or tuple(x.shape[-len(shape) :]) != shape or any(s != shape for s in given):
        return None
    return torch.empty(x.shape, dtype=x.dtype, device="meta")


def _group_norm(
    x: Tensor, num_groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5
) -> Tensor | None:
    given = [tuple(t.shape) for t in (weight, bias) if t is not None]
    if x.dim() < 3 or x.shape[1] % num_groups or any(s != (x.shape[1],) for s in given):
        return None
    return torch.empty_like(x) if x.is_contiguous() else None


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor | None:
    fits = _is_plain_weight(weight, x) and weight.dim() == 2 and x.shape[-1] == weight.shape[1]
    if not fits or (bias is not None and bias.shape != weight.shape[:1]):
        return None
    return torch.empty((*x.shape[:-1], weight.shape[0]), dtype=x.dtype, device="meta")


def _is_plain_weight(weight: Any, x: Tensor) -> bool:
    return isinstance(weight, Tensor) and weight.is_meta and weight.dtype == x.dtype


def _arithmetic(x: Tensor, other: Any, *, alpha: float = 1) -> Tensor | None:
    if type(other) in (int, float):
        return torch.empty_like(x)
    if not isinstance(other, Tensor) or not other.is_meta or other.dtype != x.dtype:
        return None
    if other.shape == x.shape:
        return torch.empty_like(x) if other.stride() == x.stride() else None
    ahead = x.dim() - other.dim()
    fits = ahead >= 0 and all(
        b in (1, a) for a, b in zip(x.shape[ahead:], other.shape, strict=True)
    )
    return torch.empty_like(x) if fits and x.is_contiguous() and other.is_contiguous() else None


def _attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Any = None, dropout_p: float = 0.0,
    is_causal: bool = False, *, scale: float | None = None, enable_gqa: bool = False,
) -> Tensor | None:  # fmt: skip
    same = all(_is_plain(t) and t.dtype == query.dtype for t in (key, value))
    if not same or query.dim() != 4 or key.dim() != 4 or value.dim() != 4 or enable_gqa:
        return None
    if key.shape[:3] != value.shape[:3] or key.shape[-1] != query.shape[-1]:
        return None
    if key.shape[:2] != query.shape[:2] or isinstance(attn_mask, Tensor):
        return None
    return torch.empty((*query.shape[:-1], value.shape[-1]), dtype=query.dtype, device="meta")


def _lstm(
    x: Tensor, state: tuple[Tensor, Tensor], weights: list[Tensor], biases: bool, layers: int,
    dropout: float, training: bool, bidirectional: bool, batch_first: bool,
) -> tuple[Tensor, ...] | None:  # fmt: skip
    plain = isinstance(state, tuple) and len(state) == 2  # packed sequences are not
    if not plain or x.dim() != 3 or not all(_is_plain_weight(t, x) for t in (*state, *weights)):
        return None
    time, batch = (1, 0) if batch_first else (0, 1)
    directions = 2 if bidirectional else 1
    hidden = state[0]
    fits = tuple(hidden.shape[:2]) == (layers * directions, x.shape[batch])
    if not fits or x.shape[2] != weights[0].shape[1]:
        return None
    width = directions * hidden.shape[2]
    made = torch.empty(x.shape[time], x.shape[batch], width, dtype=x.dtype, device="meta")
    return made.transpose(0, 1) if batch_first else made, *map(torch.empty_like, state)


_ELEMENTWISE = [
    *(F.relu, F.relu6, F.gelu, F.silu, F.hardswish, F.hardsigmoid, F.hardtanh, F.mish, F.elu),
    *(F.leaky_relu, F.softplus, F.sigmoid, F.tanh),
    *(torch.relu, torch.sigmoid, torch.tanh, Tensor.relu, Tensor.sigmoid, Tensor.tanh),
]
_BINARY = [
    *(torch.add, torch.sub, torch.mul, torch.div),
    *(Tensor.add, Tensor.sub, Tensor.mul, Tensor.div),
    *(operator.add, operator.sub, operator.mul, operator.truediv),
]
_RULES: dict[Any, Rule] = {
    **dict.fromkeys(_ELEMENTWISE, _pointwise),
    **dict.fromkeys(_BINARY, _arithmetic),
    F.batch_norm: _batch_norm,
    F.layer_norm: _layer_norm,
    F.group_norm: _group_norm,
    F.linear: _linear,
    torch.lstm: _lstm,
    F.scaled_dot_product_attention: _attention,
}
_HASHABLE = tuple({type(function) for function in _RULES})
