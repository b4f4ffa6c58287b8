"""What a forward is given: positional and keyword arguments, of any structure, and their form.

A form has a shape, a type and a range where the input has a tensor. It is all that analysing,
weighing, checking and saving need of an input: no forward is run on a user's own numbers, and a
saved folder holds none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Union

import torch
from torch import Tensor, nn

from attnsurgeon.recording.record import map_tensors
from attnsurgeon.sizes import InputSize, Size, each, together

Draw = Callable[..., Tensor]

BATCH = 2  # of an analysis: the batch axis can be told from windows and heads folded into it


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
        # Zeros in the shape of an image only say which shape: nothing would move on them.
        empty = low == high and tensor.is_floating_point() and tensor.dim() > 1
        known = math.isfinite(low + high) and not empty
        return replace(form, low=low, high=high) if known else form

    def on_meta(self) -> Tensor:
        """Returns a tensor of this form without numbers."""
        return torch.empty(self.shape, dtype=self.dtype, device="meta")

    def drawn(self, generator: torch.Generator, draw: Draw) -> Tensor:
        """Returns a tensor of this form with random numbers of its range; of `draw` without one."""
        if self.dtype.is_complex:
            parts = (draw(self.shape, generator=generator) for _ in range(2))
            return torch.complex(*parts).to(self.dtype)
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

    def at_length(self, length: int, own: int) -> InputForm:
        """Returns the form with signals (N, C, L) of the length `own` at another length."""

        def changed(t: TensorForm) -> TensorForm:
            signal = len(t.shape) == 3 and t.shape[2] == own
            return replace(t, shape=(*t.shape[:2], length)) if signal else t

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
