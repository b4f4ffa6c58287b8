"""What a forward is given: positional and keyword arguments, of any structure, and their form.

A form has a shape, a type and a range where the input has a tensor. It is all that analysing,
weighing, checking and saving need of an input: no forward is run on a user's own numbers, and a
saved folder holds none.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Union

import torch
from torch import Tensor, nn

from attnsurgeon.errors import ModelError, nearest
from attnsurgeon.recording.record import map_tensors
from attnsurgeon.sizes import MAX_ELEMENTS, InputSize, Size, each, together

Draw = Callable[..., Tensor]

_PLAIN = (type(None), bool, int, float, str)
_DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.bool, torch.uint8),
        *(torch.int8, torch.int16, torch.int32, torch.int64, torch.complex64, torch.complex128),
    )
}
BATCH = 2  # of an analysis, so that the batch axis can be told from windows and heads folded into it
_LONGEST = 10_000  # characters of a string
_DEEPEST = 6  # a record of surgery holds about ten
_TAKEN = "tensors, numbers, strings and None, in lists, tuples and dicts"


class Inputs(NamedTuple):
    """The arguments of one forward."""

    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = {}  # noqa: RUF012 -- of a named tuple; never changed

    @classmethod
    def of(cls, given: Inputs | tuple[Any, ...]) -> Inputs:
        """Returns the arguments that were given; a tuple is the positional ones."""
        return given if isinstance(given, Inputs) else cls(given)

    def feed(self, model: nn.Module) -> Any:
        """Runs a network on them."""
        return model(*self.args, **self.kwargs)


Given = Union["Inputs", "InputForm", tuple[Any, ...]]  # a tuple is the positional arguments


@dataclass(frozen=True)
class TensorForm:
    """What stands for a tensor.

    Attributes:
        shape: with the batch.
        dtype: its type.
        low, high: the range of its numbers; None where nothing is known of them.
    """

    shape: Size
    dtype: torch.dtype = torch.float32
    low: float | None = None
    high: float | None = None

    @classmethod
    def of(cls, tensor: Tensor, *, ranged: bool = True) -> TensorForm:
        """Reads a tensor; the range of fractions only where it is asked for."""
        form = cls(tuple(tensor.shape), tensor.dtype)
        if tensor.is_meta or not tensor.numel() or tensor.is_complex():
            return form
        if tensor.is_floating_point() and not ranged:
            return form
        values = tensor.detach().to(torch.float64 if tensor.is_floating_point() else torch.int64)
        low, high = (float(v) if values.is_floating_point() else int(v) for v in values.aminmax())
        unknown = not math.isfinite(low + high)
        # Zeros in the shape of an image only say which shape: nothing would move on them.
        return form if unknown or (low == high and _is_map(tensor)) else replace(
            form, low=low, high=high
        )  # fmt: skip

    def on_meta(self) -> Tensor:
        """Returns a tensor of this form without numbers."""
        return torch.empty(self.shape, dtype=self.dtype, device="meta")

    def drawn(self, generator: torch.Generator, draw: Draw) -> Tensor:
        """Returns a tensor of this form with random numbers of its range; of `draw` without one."""
        if self.dtype.is_complex:
            return torch.complex(*(draw(self.shape, generator=generator) for _ in range(2))).to(
                self.dtype
            )
        if self.dtype.is_floating_point:
            if self.low is None or self.high is None:
                return draw(self.shape, generator=generator).to(self.dtype)
            share = torch.rand(self.shape, generator=generator)
            return (self.low + (self.high - self.low) * share).to(self.dtype)
        low, high = int(self.low or 0), int(self.high or 0)
        whole = torch.randint(low, high + 1, self.shape, generator=generator)
        return whole.to(self.dtype)


@dataclass(frozen=True)
class InputForm:
    """Positional and keyword arguments with a `TensorForm` in the place of each tensor.

    Attributes:
        args, kwargs: the arguments.
        batched: whether the batch may be another than it is.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    batched: bool = True

    @classmethod
    def of(cls, example: Any, model: nn.Module) -> InputForm:
        """Returns the form of an example input as users give it.

        A tuple is the positional arguments, anything else the only one. A dict, alone or at the
        end of a tuple, whose keys are names of the forward's parameters is keyword arguments.

        Raises:
            ModelError: it holds something that no form can describe, no tensor, or a keyword
                that the forward does not have.
        """
        if isinstance(example, InputForm):
            return example
        args = example if _is_tuple(example) else (example,)
        kwargs: Mapping[str, Any] = {}
        if args and isinstance(args[-1], Mapping) and _are_keywords(args[-1], args[:-1], model):
            args, kwargs = args[:-1], args[-1]
        form = cls(
            tuple(_described(value, f"[{at}]") for at, value in enumerate(args)),
            {str(name): _described(value, f".{name}") for name, value in kwargs.items()},
        )
        form._check()
        return form

    @classmethod
    def of_inputs(cls, given: Given) -> InputForm:
        """Returns the form of arguments as they are; a form is returned itself."""
        if isinstance(given, InputForm):
            return given
        return cls(*map_tensors(Inputs.of(given), lambda t: TensorForm.of(t, ranged=False)))

    @classmethod
    def of_size(cls, size: InputSize, batch: int = BATCH) -> InputForm:
        """Returns the form of one image, or of several, of the given sizes."""
        return cls(tuple(TensorForm((batch, *one)) for one in each(size)), {})

    @property
    def tensors(self) -> tuple[TensorForm, ...]:
        """The tensors, in the order in which they stand in the arguments."""
        return tuple(_leaves((self.args, self.kwargs)))

    @property
    def batch(self) -> int:
        """The batch size: the first axis of the first image, or of what comes nearest to one."""
        ranks = sorted({min(len(t.shape), 3) for t in self.tensors}, reverse=True)
        found = [t.shape[0] for r in ranks for t in self.tensors if min(len(t.shape), 3) == r and r]
        return found[0] if found else 1

    @property
    def size(self) -> InputSize:
        """The size of each tensor, without the batch."""
        return together(t.shape[1:] for t in self.tensors)

    def at_batch(self, batch: int) -> InputForm:
        """Returns the form at another batch size, of every tensor whose first axis has this one."""
        now = self.batch

        def changed(t: TensorForm) -> TensorForm:
            follows = len(t.shape) > 0 and t.shape[0] == now
            return replace(t, shape=(batch, *t.shape[1:])) if follows else t

        return self.mapped(changed) if self.batched else self

    def at_sides(self, height: int, width: int, own: tuple[int, int]) -> InputForm:
        """Returns the form with images, and what has the sides `own` of one, at other sides."""

        def changed(t: TensorForm) -> TensorForm:
            image = len(t.shape) >= 4 or (len(t.shape) == 3 and t.shape[1:] == own)
            return replace(t, shape=(*t.shape[:-2], height, width)) if image else t

        return self.mapped(changed)

    def on_meta(self) -> Inputs:
        """Returns arguments without numbers."""
        return self._made(TensorForm.on_meta)

    def drawn(self, generator: torch.Generator, draw: Draw = torch.rand) -> Inputs:
        """Returns arguments on the CPU with random numbers in the range of each tensor.

        Args:
            generator: drawn from.
            draw: `torch.rand` or `torch.randn`, for fractions whose range is not known.
        """
        return self._made(lambda t: t.drawn(generator, draw))

    def record(self) -> dict[str, Any] | None:
        """Returns the form as plain values; None where the sizes of its tensors say all of it."""
        if not self.kwargs and all(map(self._is_image, self.args)):
            return None
        return {
            "args": [_written(value) for value in self.args],
            "kwargs": [[name, _written(value)] for name, value in self.kwargs.items()],
        }

    @classmethod
    def of_record(cls, record: Any) -> InputForm:
        """Returns what `record` wrote.

        Raises:
            ModelError: it is nothing that `record` writes.
        """
        if not isinstance(record, dict) or set(record) != {"args", "kwargs"}:
            raise _no_form()
        args, kwargs = record["args"], _pairs(record["kwargs"])
        if not isinstance(args, list) or not all(type(name) is str for name, _ in kwargs):
            raise _no_form()
        form = cls(tuple(map(_read, args)), {name: _read(value) for name, value in kwargs})
        form._check()
        return form

    def _is_image(self, value: Any) -> bool:
        if not isinstance(value, TensorForm) or value.low is not None:
            return False
        has_map = any(len(t.shape) > 2 for t in self.tensors)
        return has_map and value.dtype.is_floating_point and value.shape[:1] == (BATCH,)

    def _check(self) -> None:
        if not self.tensors:
            raise ModelError(
                "there is no tensor in the example input",
                "give what the forward is called with: example=(image, timestep), or the file of it"
                " (--input FILE)",
            )
        if sum(math.prod(t.shape) for t in self.tensors) > MAX_ELEMENTS:
            raise ModelError(
                "the example input is too large", f"up to {MAX_ELEMENTS:,} numbers in all"
            )

    def mapped(self, change: Callable[[TensorForm], Any]) -> InputForm:
        """Returns the arguments with something else in the place of each tensor."""
        return replace(
            self,
            args=_mapped(self.args, change),
            kwargs={name: _mapped(value, change) for name, value in self.kwargs.items()},
        )

    def _made(self, make: Callable[[TensorForm], Tensor]) -> Inputs:
        made = self.mapped(make)
        return Inputs(made.args, dict(made.kwargs))


def recorded_form(operation: Mapping[str, Any]) -> InputForm:
    """Returns the form of the input that a recorded operation was analysed with."""
    if operation.get("example") is not None:
        return InputForm.of_record(operation["example"])
    return InputForm.of_size(together(each(operation["input_size"])))


def _is_tuple(value: Any) -> bool:
    return isinstance(value, tuple) and not hasattr(value, "_fields")


def _is_map(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and tensor.dim() > 1


def _are_keywords(found: Mapping[Any, Any], before: tuple[Any, ...], model: nn.Module) -> bool:
    """Whether a dict is keyword arguments, by the names of the parameters that are left for it."""
    try:
        known = list(inspect.signature(model.forward).parameters.values())
    except (TypeError, ValueError):  # a compiled forward has none to read
        return False
    anything = any(p.kind is p.VAR_KEYWORD for p in known)
    placed = [p for p in known if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    taken = {p.name for p in (*placed[: len(before)], *placed) if p.kind is p.POSITIONAL_ONLY}
    named = (p for p in known if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY))
    left = {p.name: p for p in named if p not in placed[: len(before)] and p.name not in taken}
    if not found or not all(isinstance(key, str) for key in found):
        return False
    unknown = [key for key in found if key not in left]
    if not unknown:
        return True
    if anything:
        return all(p.default is not p.empty or p.name in found for p in left.values())
    if len(unknown) < len(found):
        raise ModelError(
            f"the forward of this {type(model).__name__} takes no argument {unknown[0]!r}",
            nearest(unknown[0], left),
        )
    return False


def _described(value: Any, at: str, depth: int = 0) -> Any:
    """A value with the forms of its tensors; `at` is where it stands, for errors."""
    if depth > _DEEPEST:
        raise ModelError(f"the example input is nested more than {_DEEPEST} levels deep")
    if isinstance(value, Tensor):
        if value.layout is not torch.strided or value.dtype not in _DTYPES.values():
            raise ModelError(f"example{at} is a tensor of another kind than numbers in a row")
        return TensorForm.of(value)
    if type(value) in _PLAIN:
        return value
    if isinstance(value, list) or _is_tuple(value):
        found = (_described(one, f"{at}[{i}]", depth + 1) for i, one in enumerate(value))
        return list(found) if isinstance(value, list) else tuple(found)
    if isinstance(value, Mapping) and all(type(key) in (str, int) for key in value):
        return {k: _described(one, f"{at}[{k!r}]", depth + 1) for k, one in value.items()}
    raise ModelError(
        f"example{at} is of type {type(value).__name__}",
        f"an example input is made of {_TAKEN}"
        + ("; torch.from_numpy makes a tensor" if type(value).__module__ == "numpy" else ""),
    )


def _leaves(value: Any) -> Iterator[TensorForm]:
    if isinstance(value, TensorForm):
        yield value
    elif isinstance(value, (list, tuple)):
        for one in value:
            yield from _leaves(one)
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from _leaves(one)


def _mapped(value: Any, change: Callable[[TensorForm], Any]) -> Any:
    if isinstance(value, TensorForm):
        return change(value)
    if isinstance(value, (list, tuple)):
        found = (_mapped(one, change) for one in value)
        return list(found) if isinstance(value, list) else tuple(found)
    if isinstance(value, Mapping):
        return {key: _mapped(one, change) for key, one in value.items()}
    return value


def _written(value: Any) -> dict[str, Any]:
    if isinstance(value, TensorForm):
        made = {"tensor": list(value.shape), "dtype": str(value.dtype).removeprefix("torch.")}
        return made if value.low is None else {**made, "range": [value.low, value.high]}
    if isinstance(value, (list, tuple)):
        kind = "list_of" if isinstance(value, list) else "tuple_of"
        return {kind: [_written(one) for one in value]}
    if isinstance(value, Mapping):
        return {"dict_of": [[key, _written(one)] for key, one in value.items()]}
    return {"value": value}


def _read(record: Any) -> Any:
    """What `_written` wrote; everything in it is checked, whoever made it."""
    if not isinstance(record, dict):
        raise _no_form()
    if "tensor" in record:
        return _read_tensor(record)
    if len(record) != 1:
        raise _no_form()
    ((kind, value),) = record.items()
    if kind == "value" and type(value) in _PLAIN and not _is_too_much(value):
        return value
    if kind in ("list_of", "tuple_of") and isinstance(value, list):
        found = map(_read, value)
        return list(found) if kind == "list_of" else tuple(found)
    if kind != "dict_of":
        raise _no_form()
    return {key: _read(one) for key, one in _pairs(value)}


def _pairs(value: Any) -> list[tuple[Any, Any]]:
    whole = isinstance(value, list) and all(isinstance(p, list) and len(p) == 2 for p in value)
    if not whole or not all(type(key) in (str, int) for key, _ in value):
        raise _no_form()
    return [(key, one) for key, one in value]


def _read_tensor(record: dict[str, Any]) -> TensorForm:
    shape, dtype, span = record["tensor"], record.get("dtype"), record.get("range")
    known = isinstance(dtype, str) and dtype in _DTYPES
    whole = isinstance(shape, list) and len(shape) <= 8
    if not known or not whole or not all(type(n) is int and 0 <= n < 1 << 31 for n in shape):
        raise _no_form()
    if span is None:
        return TensorForm(tuple(shape), _DTYPES[dtype])
    numbers = isinstance(span, list) and [type(n) in (int, float) for n in span] == [True, True]
    if not numbers or any(map(_is_too_much, span)) or span[0] > span[1]:
        raise _no_form()
    return TensorForm(tuple(shape), _DTYPES[dtype], *span)


def _is_too_much(value: Any) -> bool:
    if isinstance(value, float):
        return not math.isfinite(value)
    if isinstance(value, str):
        return len(value) > _LONGEST
    return isinstance(value, int) and not -(1 << 62) <= value < 1 << 62


def _no_form() -> ModelError:
    return ModelError("it is no form of an input")
