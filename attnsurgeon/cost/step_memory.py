"""One training step -> the bytes it takes at its peak, beside what was there before.

On a device whose allocator counts, that is asked. The CPU has none, so there the tensors are
counted that autograd keeps for the backward pass: what a step takes beside the weights and their
gradients, and what grows with the batch.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

SAVED, ALLOCATED = "saved tensors", "allocated"  # what is counted
Run = Callable[[], Any]


def peak_of(device: torch.device) -> tuple[Callable[[Run, Iterable[Tensor]], int], str]:
    """Returns how the peak of a step on a device is measured, and what that counts."""
    if device.type != "cpu":
        module = torch.get_device_module(device)
        if hasattr(module, "max_memory_allocated"):
            return lambda step, held: allocated(step, module, device), ALLOCATED
    return saved, SAVED


def allocated(step: Run, module: Any, device: torch.device) -> int:
    """Returns the most bytes that a device had given out during a step, over those before it.

    Args:
        step: to run; once more before it counts, since the first one also makes what stays.
        module: of the device, `torch.cuda`.
        device: which one.
    """
    step()
    module.synchronize(device)
    module.reset_peak_memory_stats(device)
    there = module.memory_allocated(device)
    step()
    module.synchronize(device)
    return module.max_memory_allocated(device) - there


def saved(step: Run, held: Iterable[Tensor]) -> int:
    """Returns the most bytes that autograd kept at once for the backward pass of a step.

    A memory that several tensors lie in counts once, and whole. What gradient checkpointing
    computes again in the backward pass counts where it is reentrant; the other way hides it.

    Args:
        step: to run.
        held: what is there anyhow: parameters and buffers.
    """
    kept = _Kept(held)
    with torch.autograd.graph.saved_tensors_hooks(kept.pack, _unpack):
        step()
    return kept.peak


class _Kept:
    """Counts the memories in which saved tensors lie, for as long as they are kept."""

    def __init__(self, held: Iterable[Tensor]) -> None:
        self._own = {memory for tensor in held for memory, _ in _memories(tensor)}
        self._users: dict[int, int] = {}
        self._now = self.peak = 0

    def pack(self, tensor: Tensor) -> _Saved:
        # Detached, as one that is the result of its operation would hold what made it, for good.
        saved = _Saved(tensor.detach())
        for memory, size in _memories(saved.tensor):
            if memory in self._own:
                continue
            if memory not in self._users:
                self._now += size
                self.peak = max(self.peak, self._now)
            self._users[memory] = self._users.get(memory, 0) + 1
            weakref.finalize(saved, self._drop, memory, size)
        return saved

    def _drop(self, memory: int, size: int) -> None:
        self._users[memory] -= 1
        if not self._users[memory]:
            del self._users[memory]
            self._now -= size


class _Saved:
    """A saved tensor; its end is that of the operation that kept it."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


def _unpack(saved: _Saved) -> Tensor:
    return saved.tensor


def _memories(tensor: Tensor) -> Iterator[tuple[int, int]]:
    """The address of each storage that a tensor lies in, and its bytes."""
    for part in _parts(tensor):
        storage = part.untyped_storage()
        yield storage._cdata, storage.nbytes()


def _parts(tensor: Tensor) -> tuple[Tensor, ...]:
    if tensor.layout is torch.sparse_coo:
        return tensor._indices(), tensor._values()
    if tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        return tensor.crow_indices(), tensor.col_indices(), tensor.values()
    if tensor.layout in (torch.sparse_csc, torch.sparse_bsc):
        return tensor.ccol_indices(), tensor.row_indices(), tensor.values()
    if tensor.layout is torch.jagged:
        return tensor.values(), tensor.offsets()  # type: ignore[attr-defined]
    return (tensor,)
