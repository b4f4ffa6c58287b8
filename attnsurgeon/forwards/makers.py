"""Tensors that a forward makes of plain numbers, as `torch.arange(8)`, are steps of it.

torch.fx sees no proxy there, and keeps the tensor as it is at that moment. So where one meets a
proxy, the forward is traced again while such calls are written down. Not at once: a forward may
also read the numbers and be done with the tensor (`torch.linspace(0, 1, 4).tolist()`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from attnsurgeon.forwards.alignment import Untraceable

# Those that give the same each time; what draws is met elsewhere.
_MAKERS = frozenset(
    [
        *(torch.arange, torch.linspace, torch.logspace, torch.tensor, torch.full, torch.eye),
        *(torch.ones, torch.zeros, torch.tril_indices, torch.triu_indices),
        *(torch.hann_window, torch.hamming_window, torch.blackman_window),
    ]
)


class TensorMade(Untraceable):
    """A tensor made of plain numbers meets a proxy: as a step of the forward it can be traced."""


class Making(TorchFunctionMode):
    """Writes down the calls that make a tensor of plain numbers, but for those that `busy` runs."""

    def __init__(
        self, make: Callable[[Any, tuple, dict], fx.Proxy], busy: Callable[[], bool]
    ) -> None:
        super().__init__()
        self._make = make
        self._busy = busy

    def __torch_function__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Runs `func`, or adds a call of it to the graph."""
        kwargs = kwargs or {}
        if func not in _MAKERS or self._busy():
            return func(*args, **kwargs)
        if any(isinstance(leaf, fx.Proxy) for leaf in pytree.tree_leaves((args, kwargs))):
            return func(*args, **kwargs)
        return self._make(func, args, kwargs)
