"""A network that a file names -> built without numbers, to see that it is not out of all size.

Of a name and a few numbers nobody can tell how large the network is that they make; so it is built
on the meta device first, where a tensor costs nothing, and each one is counted as it is made.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from attnsurgeon.errors import ModelError
from attnsurgeon.models.build import build_on_meta

MOST_TENSORS = 6_000  # three times those of an HRNet; the largest YOLO has 3,700
MOST_SECONDS = 10.0  # of this thread, whatever else the machine has to do
_CALLS = 6  # of torch's functions, for each tensor: it is made, filled, and asked for its shape
_TRIES = 3  # `build_on_meta` has three ways
SPARE = 1 << 25  # for what is no weight: positions, masks, what was replaced under init="paper"

_SIZED = frozenset({torch.empty, torch.zeros, torch.ones, torch.rand, torch.randn})
_MAKING = _SIZED | frozenset(
    {
        *(torch.full, torch.arange, torch.linspace, torch.eye, torch.tensor, torch.empty_strided),
        *(torch.empty_like, torch.zeros_like, torch.ones_like, torch.full_like),
        *(torch.rand_like, torch.randn_like, torch.randint, torch.randperm, torch.meshgrid),
        *(Tensor.new_empty, Tensor.new_zeros, Tensor.new_ones, Tensor.new_full, Tensor.new_tensor),
        *(Tensor.clone, Tensor.repeat),
    }
)


def out_of_size(spec: str, model_args: Mapping[str, Any], most: int | None) -> str | None:
    """Build a network without numbers; return why it is too large, None where it is not.

    Args:
        spec: as for `load_model`, of the vocabulary.
        model_args: as for `load_model`.
        most: numbers that it may hold; None for a few times those it has without arguments.

    Raises:
        ModelError: it cannot be built.
    """
    if most is None:
        with _Counting(math.inf) as usual:
            build_on_meta(spec)
        most = 4 * usual.numbers
    try:
        with _Counting(most + SPARE):
            build_on_meta(spec, **model_args)
    except _TooLarge as error:
        return error.what
    return None


class _TooLarge(ModelError):
    """A network that a file names has more in it than can be meant."""


class _Counting(TorchFunctionMode):
    """Counts the tensors made inside, by this thread, and their numbers."""

    def __init__(self, most: float) -> None:
        super().__init__()
        self.most = most
        self.numbers = self.tensors = self.calls = 0
        self.until = time.thread_time() + MOST_SECONDS

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.calls += 1
        if func not in _MAKING:
            self._refuse(0)
            return func(*args, **(kwargs or {}))
        self.tensors += 1
        self._refuse(_asked(args) if func in _SIZED else 0)  # before there is no memory for it
        made = func(*args, **(kwargs or {}))
        self.numbers += made.numel() if isinstance(made, Tensor) else 0
        self._refuse(0)
        return made

    def _refuse(self, more: int) -> None:
        tensors = _TRIES * MOST_TENSORS
        if self.tensors > tensors or self.calls > _CALLS * tensors:
            raise _TooLarge(f"it would have more than {MOST_TENSORS:,} tensors")
        if self.numbers + more > _TRIES * self.most:
            raise _TooLarge(f"it would have more than {self.most:,} numbers")
        if time.thread_time() > self.until:
            raise _TooLarge(f"it takes more than {MOST_SECONDS:.0f} s to build")


def _asked(args: tuple[Any, ...]) -> int:
    """The numbers that `empty(3, 4)` or `empty((3, 4))` asks for."""
    sizes = args[0] if len(args) == 1 and isinstance(args[0], (tuple, list)) else args
    if not all(type(size) is int for size in sizes):
        return 0
    return math.prod(max(size, 0) for size in sizes)
