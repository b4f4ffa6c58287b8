"""Network -> Origin: the sha256 of the base network's tensors, taken when it is operated."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from attnsurgeon.recording.record import MARK
from attnsurgeon.splicing.history import history

_NOTE = "_attnsurgeon_origin"


@dataclass(frozen=True)
class Origin:
    """What the base network's parameters and persistent buffers were; attention is left out.

    Attributes:
        sha256: over the names, dtypes, shapes and values of all of them; None where there are no
            values (the meta device) or a tensor has no plain memory (sparse, quantised).
        tensors: name -> sha256 of the values alone, to say which of them changed.
    """

    sha256: str | None
    tensors: Mapping[str, str] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, model: nn.Module) -> Origin:
        """Measure a network that is about to be operated, and leave a note of it on the network.

        It has to be now: training changes the weights later. A network that was operated before
        keeps the origin of its first operation, from which an adapter has to start.
        """
        noted = model.__dict__.get(_NOTE)
        if noted is None or not history(model):
            noted = measure(model)
            note(model, noted)
        return noted

    def differences(self, other: Origin) -> list[str]:
        """Return the names of the tensors that differ, where both origins list tensors."""
        if not (self.tensors and other.tensors):
            return []
        names = self.tensors.keys() | other.tensors.keys()
        return [name for name in names if self.tensors.get(name) != other.tensors.get(name)]


def noted(model: nn.Module) -> Origin:
    """Return the origin that an operated network carries; one that knows nothing without a note."""
    return model.__dict__.get(_NOTE) or Origin(None)


def note(model: nn.Module, origin: Origin) -> None:
    """Write an origin on a network as a plain attribute; copies and pickles carry it."""
    model.__dict__[_NOTE] = origin


def measure(model: nn.Module) -> Origin:
    """Hash the base network's tensors as they are now: 65 ms for resnet50 on one core.

    Neither the memory layout nor the device enters the hash.
    """
    named = dict(base_tensors(model))
    distinct = list({id(t): t for t in named.values()}.values())
    try:
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # hashlib releases the lock
            values = dict(zip(map(id, distinct), pool.map(_digest, distinct), strict=True))
    except (RuntimeError, NotImplementedError, TypeError):  # no plain memory to look at
        return Origin(None)
    whole = hashlib.sha256()
    for name, tensor in sorted(named.items()):
        line = f"{name} {tensor.dtype} {tuple(tensor.shape)} {values[id(tensor)]}\n"
        whole.update(line.encode())
    return Origin(whole.hexdigest(), {name: values[id(t)] for name, t in named.items()})


def base_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield every parameter and persistent buffer outside inserted attention, by each name."""
    new = attention_prefixes(model)
    for path, module in model.named_modules(remove_duplicate=False):
        prefix = f"{path}." if path else ""
        if prefix.startswith(new):
            continue
        for leaf, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is not None and leaf not in module._non_persistent_buffers_set:
                yield prefix + leaf, tensor


def attention_prefixes(model: nn.Module) -> tuple[str, ...]:
    """Return what the keys of inserted attention begin with, for every path it can be reached by.

    Never empty, so that `str.startswith` can be asked.
    """
    found = [
        f"{path}."
        for path, module in model.named_modules(remove_duplicate=False)
        if module.__dict__.get(MARK) is not None
    ]
    return tuple(found) or ("\0",)


def _digest(tensor: Tensor) -> str:
    """Hash the values in row-major order; only a strided or foreign tensor is copied."""
    if tensor.is_meta or type(tensor.data) is not Tensor:
        raise NotImplementedError(f"{type(tensor).__name__} on {tensor.device}")
    row_major = tensor.detach().cpu().contiguous().resolve_conj().resolve_neg()
    return hashlib.sha256(row_major.reshape(-1).view(torch.uint8).numpy().data).hexdigest()
