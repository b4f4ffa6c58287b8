"""One executed operator -> its price: multiply-adds and activations, from fvcore's own handlers.

MACs are fvcore's numbers: a multiply-add is one, convolutions, matrix products, normalisations
and some resampling have a price, element-wise work has none. Two kinds of operator are priced
beyond fvcore, and each such price is marked:

- matrix products that fvcore's tracer does not know: scaled-dot-product attention (query x key
  and weights x value), `baddbmm`, convolutions with `padding="same"`;
- inside an inserted module, what fvcore leaves out everywhere: one operation for every element
  that an element-wise operator or a reduction passes over, window size x results for a pooling.
  A mean over a full map and a gate multiplied onto it are most of what a gate costs. The network
  around it keeps fvcore's figure, so the total less what is marked is what fvcore prints.

An operator without a price is named, unless it only moves data: a view, a copy, a constructor.
"""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch._ops import OpOverload


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_TRANSPOSED = {f"conv{n}d": False for n in (1, 2, 3)}
_TRANSPOSED |= {f"conv_transpose{n}d": True for n in (1, 2, 3)}

# fvcore's tracer records the operators inside these; every other composite it records as one.
_OPENED = _words("gru_cell lstm_cell rnn_relu_cell rnn_tanh_cell")

# Data is moved, not computed. Not listed, because it shows: operators whose result is a view of
# an argument, and those that have no tensor among their arguments.
_MOVES = _words("""
    _to_copy _unsafe_index _unsafe_view alpha_dropout cat channel_shuffle clone column_stack
    concat concatenate constant_pad_nd copy detach diag diag_embed dropout dstack embedding
    empty_like
    feature_alpha_dropout feature_dropout fill flip fliplr flipud full_like gather hstack im2col
    index index_copy index_fill index_put index_select item lift_fresh meshgrid
    native_channel_shuffle new_empty new_empty_strided new_full new_ones new_zeros ones_like pad
    pixel_shuffle pixel_unshuffle rand_like randn_like reflection_pad1d reflection_pad2d
    reflection_pad3d repeat repeat_interleave replication_pad1d replication_pad2d
    replication_pad3d resize roll rot90 scatter select_scatter slice_scatter stack take
    take_along_dim tile tril triu unsafe_chunk unsafe_split vstack zero zeros_like
""")

_PER_ELEMENT = _words("""
    abs acos adaptive_avg_pool1d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d
    adaptive_max_pool3d add addcdiv addcmul amax amin aminmax argmax argmin atan bitwise_not ceil
    celu clamp clamp_max clamp_min cos cosine_similarity cumsum div elu eq erf exp expm1 floor
    floor_divide ge gelu gt hardshrink hardsigmoid hardswish hardtanh hypot le leaky_relu lerp
    linalg_vector_norm log log10 log1p log2 log_sigmoid log_softmax logical_and logical_not
    logical_or logsumexp lt masked_fill max maximum mean min minimum mish mul multiply ne neg norm
    pow prelu prod reciprocal relu relu6 remainder round rsqrt rsub selu sigmoid sign silu sin
    softmax softplus sqrt square std std_mean sub subtract sum tan tanh true_divide trunc var
    var_mean where
""")
_POOLS = frozenset(
    f"{kind}_pool{n}d{form}"
    for kind in ("avg", "max")
    for n in (1, 2, 3)
    for form in ("", "_with_indices")
)


@dataclass(frozen=True)
class Price:
    """What one executed operator costs.

    Attributes:
        operator: fvcore's name for it, in-place forms without their underscore.
        macs: multiply-adds, or None where nothing prices this operator.
        activations: elements of its result, where fvcore counts them as activations.
        beyond: fvcore leaves this operator out.
    """

    operator: str
    macs: int | None
    activations: int = 0
    beyond: bool = False


def is_opened(func: OpOverload) -> bool:
    """Says whether the operators inside this one are to be priced in its place."""
    return _plain_name(func) in _OPENED


def is_per_element(operator: str) -> bool:
    """Says whether an operator of this name has a price inside inserted modules only."""
    return operator in _PER_ELEMENT or operator in _POOLS


def price(
    func: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any, *, inserted: bool
) -> Price | None:
    """Returns the price of one executed operator, None where it only moved data.

    Args:
        func: the operator as a dispatch mode receives it.
        args: its positional arguments.
        kwargs: its keyword arguments.
        out: its result.
        inserted: it ran inside a module that surgery inserted.
    """
    name = _plain_name(func)
    results = list(out) if isinstance(out, (list, tuple)) else [out]
    priced = _priced(name, _in_schema_order(func, args, kwargs), results)
    if priced is not None:
        return priced
    inputs = [*_tensors(args), *_tensors(kwargs.values())]
    if name in _MOVES or not inputs or _is_view(func):
        return None
    if not inserted:
        return Price(name, None)
    if name in _PER_ELEMENT:
        return Price(name, max(t.numel() for t in [*inputs, *_tensors(results)]), beyond=True)
    if name in _POOLS:
        return Price(name, results[0].numel() * _window(name, args), beyond=True)
    return Price(name, None)


def _priced(name: str, arguments: list[Any], results: list[Any]) -> Price | None:
    """Asks fvcore's handler, or the few of our own; None where there is neither."""
    macs_of, activations_of = _handlers()
    beyond = False
    if name in _TRANSPOSED:
        beyond = isinstance(arguments[4], str)  # padding="same"
        arguments, results = _convolution(arguments, results, transposed=_TRANSPOSED[name])
        name = "_convolution"
    elif name == "convolution":
        name, arguments = "_convolution", [*arguments, *[None] * 3]
    elif name == "matmul":
        arguments = _matrices(arguments)
    if name in _OURS:
        return Price(name, _OURS[name](arguments), results[0].numel(), beyond=True)
    if name not in macs_of:
        return None
    inputs, outputs = [_Value(a) for a in arguments], [_Value(r) for r in results]
    try:
        operator, macs = _named(name, macs_of[name](inputs, outputs))
    except (AssertionError, IndexError, NotImplementedError, TypeError, ValueError):
        return None  # a shape this handler was not written for: the operator will be named
    activations = activations_of[name](inputs, outputs) if name in activations_of else 0
    return Price(operator, macs, _named(name, activations)[1], beyond)


def _convolution(
    arguments: list[Any], results: list[Any], *, transposed: bool
) -> tuple[list[Any], list[Any]]:
    """Returns the 12 inputs and the result of `_convolution`, to which every form comes down.

    The handler reads the input, the kernel and `transposed`.
    """
    x, kernel = arguments[:2]
    if x.ndim < kernel.ndim:  # without a batch axis
        x, results = x.unsqueeze(0), [results[0].unsqueeze(0)]
    return [x, kernel, *[None] * 4, transposed, *[None] * 5], results


def _matrices(arguments: list[Any]) -> list[Any]:
    """Returns a product's two factors with the axis a vector stands for written out."""
    left, right = arguments
    return [left, right.unsqueeze(1) if right.ndim == 1 else right]


def _attention_macs(arguments: list[Any]) -> int:
    query, key, value = arguments[:3]  # (..., L, E), (..., S, E), (..., S, V)
    return query.shape[:-1].numel() * key.shape[-2] * (key.shape[-1] + value.shape[-1])


def _baddbmm_macs(arguments: list[Any]) -> int:
    return arguments[1].numel() * arguments[2].shape[-1]


_OURS: Mapping[str, Callable[[list[Any]], int]] = {
    "scaled_dot_product_attention": _attention_macs,
    "baddbmm": _baddbmm_macs,
    "addr": _baddbmm_macs,  # of two vectors
}


@functools.cache
def _handlers() -> tuple[dict[str, Callable], dict[str, Callable]]:
    """Returns fvcore's handlers of MACs and of activations, by operator name."""
    with warnings.catch_warnings():
        # fvcore.nn scripts its loss functions on import, which torch >= 2.9 deprecates.
        warnings.filterwarnings("ignore", "`torch.jit.script", category=FutureWarning)
        warnings.filterwarnings("ignore", "`torch.jit.script", category=DeprecationWarning)
        from fvcore.nn.activation_count import _DEFAULT_SUPPORTED_OPS as activations
        from fvcore.nn.flop_count import _DEFAULT_SUPPORTED_OPS as macs
    return _by_plain_name(macs), _by_plain_name(activations)


def _by_plain_name(table: Mapping[str, Any]) -> dict[str, Callable]:
    return {name.removeprefix("aten::"): handler for name, handler in table.items()}


class _Value:
    """Shows a tensor or a constant the way fvcore's handlers look at a traced graph's values."""

    def __init__(self, content: Any) -> None:
        self.content = content

    def isCompleteTensor(self) -> bool:
        return isinstance(self.content, Tensor)

    def type(self) -> _Value:
        return self

    def sizes(self) -> list[int]:
        return list(self.content.shape)

    def toIValue(self) -> Any:
        return self.content

    def node(self) -> _Value:
        return self

    def inputs(self) -> list[_Value]:
        return [_Value(item) for item in self.content]


def _named(name: str, count: Any) -> tuple[str, int]:
    """Returns (operator, count) of a handler's answer: a number, or a Counter that names itself."""
    if isinstance(count, Mapping):
        ((name, count),) = count.items()
    return name, int(count)


def _plain_name(func: OpOverload) -> str:
    name = func._schema.name.removeprefix("aten::")
    in_place = name.endswith("_") and not name.startswith("__")  # not `__and__`
    return name[:-1] if in_place else name


def _is_view(func: OpOverload) -> bool:
    returns = [r.alias_info for r in func._schema.returns]
    return bool(returns) and all(a is not None and not a.is_write for a in returns)


def _in_schema_order(func: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
    rest = func._schema.arguments[len(args) :]
    return [*args, *(kwargs.get(a.name, a.default_value) for a in rest)]


def _tensors(values: Any) -> list[Tensor]:
    found = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, (list, tuple)):
            found += _tensors(value)
    return found


def _window(name: str, args: Sequence[Any]) -> int:
    kernel, rank = args[1], int(name[name.index("pool") + 4])
    kernel = [kernel] if isinstance(kernel, int) else kernel
    return math.prod(kernel) if len(kernel) > 1 else kernel[0] ** rank
