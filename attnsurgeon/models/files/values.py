"""The few names of a pickle that stand for plain values -> how those are made, and nothing else.

Tensors, numpy arrays, ordered dicts, sets and bytes. What a file gives for their making is checked
before anything is made, and what is made is counted.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from attnsurgeon.models.files.limits import Meter, Unreadable
from attnsurgeon.models.files.pickles import hashable
from attnsurgeon.models.files.stand_ins import Name, StandIn

_STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexDoubleStorage": torch.complex128,
    "ComplexFloatStorage": torch.complex64,
    "UntypedStorage": torch.uint8,
}
_ARRAYS = {
    **{f"f{size}": np.dtype(f"f{size}") for size in (2, 4, 8)},
    **{f"{sign}{size}": np.dtype(f"{sign}{size}") for sign in "iu" for size in (1, 2, 4, 8)},
    **{f"c{size}": np.dtype(f"c{size}") for size in (8, 16)},
    "b1": np.dtype("b1"),
}
_DIMENSIONS = 64


class Stored(NamedTuple):
    """Numbers of a file, not yet of any shape."""

    memory: torch.UntypedStorage
    dtype: torch.dtype


class Finder:
    """Says what stands for a global of one file.

    Args:
        meter: counts.
        makes: whether plain values are made; else all objects are stand-ins.
        inner: reads a file within the file, as `pickle.dump` writes the numbers of a tensor.
    """

    def __init__(
        self, meter: Meter, *, makes: bool = True, inner: Callable[[bytes], Any] | None = None
    ) -> None:
        self._meter, self._makes, self._inner = meter, makes, inner
        self._known: dict[tuple[str, str], Any] = {}

    def __call__(self, module: str, name: str) -> Any:
        """Returns a plain value, or a `Name` that may know how to make one."""
        found = self._known.get((module, name))
        if found is None:
            found = self._known[module, name] = self._find(module, name)
        return found

    def _find(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        # Not getattr: torch imports some of its parts when they are asked for.
        if module == "torch" and isinstance(vars(torch).get(name), torch.dtype):
            return vars(torch)[name]
        if module.partition(".")[0] == "torch" and name in _STORAGES:
            return Name(full, dtype=_STORAGES[name])
        if full == "torch.storage._load_from_bytes" and self._inner is not None:
            return Name(full, partial(_inner, self._inner, full))
        build = _BUILDERS.get(full) if self._makes else None
        return Name(full, None if build is None else partial(build, self._meter, full))


class Array(StandIn):
    """A numpy array or type, which a pickle first makes and then fills."""

    @property
    def dtype(self) -> np.dtype | None:
        """Of a type, the type; None of one that no tensor has."""
        found = _ARRAYS.get(_text(self.args[0])) if self.args else None
        order = self.state[1] if isinstance(self.state, tuple) and len(self.state) > 1 else "<"
        return found.newbyteorder(">") if found is not None and _text(order) == ">" else found


def as_tensor(value: Any, meter: Meter) -> Tensor | None:
    """Return the tensor that a value is, or that a numpy array holds; None of all else."""
    if isinstance(value, Tensor):
        return value
    if not isinstance(value, Array) or value.kind not in ("_reconstruct", "_frombuffer"):
        return None
    if value.kind == "_frombuffer":
        data, kind, shape, order = (*value.args, None, None, None, None)[:4]
    else:
        state = value.state if isinstance(value.state, tuple) and len(value.state) == 5 else ()
        _, shape, kind, by_columns, data = state or (None,) * 5
        order = "F" if by_columns else "C"
    dtype = kind.dtype if isinstance(kind, Array) else None
    if isinstance(data, str):  # as Python 2 wrote bytes
        data = data.encode("latin-1")
    if dtype is None or shape is None or not is_shape(shape):
        return None
    if not isinstance(data, (bytes, bytearray)):
        return None
    if math.prod(shape) * dtype.itemsize != len(data):
        raise Unreadable("a numpy array has more or fewer numbers than its shape")
    meter.tensor()
    meter.copy(len(data))
    array = np.frombuffer(data, dtype).reshape(shape, order="F" if order == "F" else "C")
    return torch.from_numpy(np.array(array, dtype.newbyteorder("="), order="C"))


def strided(
    meter: Meter, stored: Any, offset: Any, size: Any, stride: Any, dtype: Any = None
) -> Tensor:
    """Return a tensor over numbers of a file.

    Raises:
        Unreadable: it would reach beyond them.
    """
    if not isinstance(stored, Stored) or not is_shape(size) or not is_shape(stride):
        raise Unreadable("a tensor is described by what is no shape")
    dtype = dtype if isinstance(dtype, torch.dtype) else stored.dtype
    there = stored.memory.nbytes() // dtype.itemsize
    reach = 1 + sum((many - 1) * step for many, step in zip(size, stride, strict=False))
    needed = reach if math.prod(size) else 0
    if len(size) != len(stride) or not isinstance(offset, int) or offset < 0:
        raise Unreadable("a tensor is described by what is no shape")
    if needed and offset + needed > there:
        raise Unreadable("a tensor has more numbers than the file holds for it")
    meter.tensor()
    if not needed:
        return torch.empty(tuple(size), dtype=dtype)
    return torch.empty(0, dtype=dtype).set_(stored.memory, offset, tuple(size), tuple(stride))


def is_shape(sizes: Any) -> bool:
    """Whether a value of a file is a shape, a stride or an offset."""
    return (
        isinstance(sizes, (tuple, list))
        and len(sizes) <= _DIMENSIONS
        and all(type(size) is int and 0 <= size < 1 << 48 for size in sizes)
    )


def as_dtype(properties: Any) -> torch.dtype | None:
    """Return the dtype in what torch.distributed.checkpoint says of a tensor."""
    state = properties.state if isinstance(properties, StandIn) else None
    first = state[0] if isinstance(state, tuple) and state else None
    return first if isinstance(first, torch.dtype) else None


def _tensor(meter: Meter, called: str, *args: Any) -> Any:
    """`_rebuild_tensor(storage, offset, size, stride)`, v2 and v3 with more behind."""
    made = strided(meter, *args[:4], *(args[6:7] if called.endswith("_v3") else ()))
    rest = args[7:] if called.endswith("_v3") else args[6:]
    bits = rest[0] if rest and isinstance(rest[0], dict) else {}
    if bits.get("conj") and made.is_complex():
        made = made.conj()
    return torch.ops.aten._neg_view(made) if bits.get("neg") else made


def _inner(read: Callable[[bytes], Any], called: str, *args: Any) -> Any:
    return read(args[0]) if args and isinstance(args[0], bytes) else StandIn(called, args)


def _same(meter: Meter, called: str, *args: Any) -> Any:
    """A parameter is its tensor."""
    return args[0] if args and isinstance(args[0], Tensor) else StandIn(called, args)


def _subclass(meter: Meter, called: str, *args: Any) -> Any:
    """A tensor of a class of its own, or with attributes, is its tensor."""
    function, inner = (args[0], args[2]) if len(args) > 2 else (None, None)
    if not isinstance(function, Name) or not isinstance(inner, tuple):
        return StandIn(called, args)
    if function.build is None or not function.called.startswith("torch._utils._rebuild_"):
        return StandIn(called, args)
    return function.build(*inner)


def _ordered(meter: Meter, called: str, *args: Any) -> Any:
    made: OrderedDict[Any, Any] = OrderedDict()
    for pair in _counted(meter, args):
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise Unreadable("an ordered dict is made of what are no pairs")
        made[hashable(pair[0])] = pair[1]
    return made


def _set(kind: type, meter: Meter, called: str, *args: Any) -> Any:
    return kind(hashable(value) for value in _counted(meter, args))


def _counted(meter: Meter, args: tuple[Any, ...]) -> Sequence[Any]:
    values = args[0] if args and isinstance(args[0], (list, tuple)) else ()
    meter.copy(64 * len(values))
    return values


def _size(meter: Meter, called: str, *args: Any) -> Any:
    return tuple(args[0]) if len(args) == 1 and is_shape(args[0]) else StandIn(called, args)


def _bytes(meter: Meter, called: str, *args: Any) -> Any:
    """`_codecs.encode(text, "latin1")`, which is how bytes are written in older protocols."""
    if not (args and isinstance(args[0], str) and args[1:] in [("latin1",), ("latin-1",)]):
        return StandIn(called, args)
    meter.copy(len(args[0]))
    return args[0].encode("latin-1")


def _of_bytes(kind: type, meter: Meter, called: str, *args: Any) -> Any:
    """Of bytes or of nothing: of a number it would be that many zeros."""
    if len(args) > 1 or not all(isinstance(given, bytes) for given in args):
        return StandIn(called, args)
    meter.copy(sum(map(len, args)))
    return kind(*args)


def _object(meter: Meter, called: str, *args: Any) -> Any:
    """`copyreg._reconstructor(kind, object, None)`: an object as older protocols write it."""
    kind = args[0].called if args and isinstance(args[0], Name) else called
    return StandIn(kind, args[1:])


def _array(meter: Meter, called: str, *args: Any) -> Any:
    return Array(called, args)


def _text(value: Any) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


_MULTIARRAY = ("numpy.core.multiarray", "numpy._core.multiarray")
_NUMERIC = ("numpy.core.numeric", "numpy._core.numeric")
_BUILTINS = ("builtins", "__builtin__")
_BUILDERS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": _ordered,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor,
    "torch._utils._rebuild_parameter": _same,
    "torch._utils._rebuild_parameter_with_state": _same,
    "torch.nn.parameter.Parameter": _same,
    "torch.nn.parameter.Buffer": _same,
    "torch._tensor._rebuild_from_type": _subclass,
    "torch._tensor._rebuild_from_type_v2": _subclass,
    "torch.Size": _size,
    "_codecs.encode": _bytes,
    "copyreg._reconstructor": _object,
    "copy_reg._reconstructor": _object,
    "numpy.dtype": _array,
    **{f"{home}._reconstruct": _array for home in _MULTIARRAY},
    **{f"{home}._frombuffer": _array for home in _NUMERIC},
    **{f"{home}.bytes": partial(_of_bytes, bytes) for home in _BUILTINS},
    **{f"{home}.bytearray": partial(_of_bytes, bytearray) for home in _BUILTINS},
    **{f"{home}.set": partial(_set, set) for home in _BUILTINS},
    **{f"{home}.frozenset": partial(_set, frozenset) for home in _BUILTINS},
}
