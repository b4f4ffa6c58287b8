"""Tensors <-> a safetensors file and the record of what such a file cannot hold.

A safetensors file holds row-major tensors that share no memory. So a tensor with several names is
written once and its other names are recorded, and so are the strides of a tensor that is laid out
otherwise (channels_last).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from attnsurgeon.errors import ModelError, UsageError

_FORMAT = {"format": "pt"}  # what Hugging Face's readers look for in the header


@dataclass(frozen=True)
class Packed:
    """Named tensors, made ready for a safetensors file.

    Attributes:
        tensors: row-major, on the CPU, no two in the same memory.
        aliases: further name -> the name its tensor is written under.
        strides: name -> strides of what is not row-major.
    """

    tensors: Mapping[str, Tensor]
    aliases: Mapping[str, str] = field(default_factory=dict)
    strides: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


def pack(named: Mapping[str, Any]) -> Packed:
    """Make named tensors ready for a safetensors file.

    Raises:
        UsageError: one of them is no plain tensor with values.
    """
    tensors: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    strides: dict[str, tuple[int, ...]] = {}
    written: dict[tuple[Any, ...], str] = {}
    memories: set[int] = set()
    for name, tensor in named.items():
        _refuse_unwritable(name, tensor)
        offset, shape, stride = tensor.storage_offset(), tensor.shape, tensor.stride()
        view = (_memory(tensor), offset, shape, stride, tensor.dtype)
        if tensor.numel() and view in written:
            aliases[name] = written[view]
            continue
        written[view] = name
        if (laid_out := strides_of(tensor)) is not None:
            strides[name] = laid_out
        row_major = tensor.detach().cpu().contiguous().resolve_conj().resolve_neg()
        if _memory(row_major) in memories:  # two views that overlap
            row_major = row_major.clone()
        memories.add(_memory(row_major))
        tensors[name] = row_major
    return Packed(tensors, aliases, strides)


def strides_of(tensor: Tensor) -> tuple[int, ...] | None:
    """Return the strides that a copy of a tensor should have; None for plain row-major."""
    if tensor.stride() == _row_major(tensor.shape):
        return None
    # Of an expanded or gapped tensor, the strides without the overlap or the gaps.
    kept = torch.empty_like(tensor, device="meta").stride()
    return None if kept == _row_major(tensor.shape) else kept


def write_tensors(packed: Packed, file: Path) -> str:
    """Write the tensors to `file`; return its sha256.

    Raises:
        OSError: the file cannot be written.
        UsageError: safetensors has no such type of number.
    """
    file.touch()
    usual = file.stat().st_mode
    try:
        save_file(dict(packed.tensors), file, metadata=_FORMAT)
    except (KeyError, ValueError) as error:
        raise UsageError(
            f"the weights cannot be written as safetensors: {error}",
            "convert them to a common type first: model.float()",
        ) from error
    except SafetensorError as error:
        raise OSError(str(error)) from error
    file.chmod(usual)  # safetensors leaves a file that only its owner may read
    return sha256_of(file)


def sha256_of(file: Path) -> str:
    """Hash a file."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def read_tensors(file: Path, sha256: str) -> dict[str, Tensor]:
    """Read a file that `write_tensors` wrote.

    Raises:
        ModelError: it is not the file that was written.
    """
    try:
        found = sha256_of(file)
        if found == sha256:
            return load_file(file)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{file} cannot be read: {error}", _AGAIN) from error
    raise ModelError(
        f"{file} is not the file that was saved: its sha256 begins with {found[:8]}, not with"
        f" {sha256[:8]}",
        _AGAIN,
    )


_AGAIN = "copy or download the whole folder again; if the file was changed on purpose, save anew"


def reshape_to(model: nn.Module, packed: Packed) -> None:
    """Give a network's tensors the dtypes, the strides and the sharing of packed ones.

    The values come after, with `load_state_dict`, which copies into what is there: alone it would
    keep the network's dtypes, and join what the file has as two tensors.
    """
    stands_for: dict[int, str] = {}
    for name in (*packed.tensors, *packed.aliases):
        place = _place(model, name)
        if place is None:  # no such tensor: load_state_dict will say so
            continue
        registered, leaf = place
        current = registered[leaf]
        first = _place(model, packed.aliases.get(name, name))
        if name in packed.aliases and first is not None and _same_kind(first, current):
            registered[leaf] = first[0][first[1]]
            continue
        if stands_for.setdefault(id(current), name) != name:
            registered[leaf] = current = _apart(current)
            stands_for[id(current)] = name
        stored = packed.tensors[packed.aliases.get(name, name)]
        _recast(current, stored, packed.strides.get(name))


def _same_kind(first: tuple[dict[str, Any], str], current: Tensor) -> bool:
    return isinstance(first[0][first[1]], nn.Parameter) == isinstance(current, nn.Parameter)


def cast_to(tensor: Tensor, dtype: torch.dtype, strides: tuple[int, ...] | None) -> None:
    """Convert a tensor's values and layout in place; the tensor stays the same object."""
    _refuse_gapped(strides, tensor.shape)
    with torch.no_grad():
        old = tensor.data
        if (tensor.dtype, tensor.stride()) != (dtype, strides or _row_major(tensor.shape)):
            _recast(tensor, old.to(dtype), strides)
            tensor.data.copy_(old)


def _recast(current: Tensor, stored: Tensor, strides: tuple[int, ...] | None) -> None:
    if current.shape != stored.shape:  # load_state_dict will say so
        return
    _refuse_gapped(strides, stored.shape)
    wanted = strides or _row_major(stored.shape)
    if (current.dtype, current.stride()) != (stored.dtype, wanted):
        current.data = torch.empty_strided(
            stored.shape, wanted, dtype=stored.dtype, device=current.device
        )


def set_buffers(model: nn.Module, packed: Packed) -> None:
    """Register tensors as non-persistent buffers, in place of those of the same names.

    Raises:
        ModelError: the network has no such module.
    """
    for name in (*packed.tensors, *packed.aliases):
        stored = packed.tensors[packed.aliases.get(name, name)]
        path, _, leaf = name.rpartition(".")
        try:
            module = model.get_submodule(path)
        except AttributeError:
            raise ModelError(
                f"the saved folder has a buffer {name}, but this network has no {path}"
            ) from None
        _refuse_gapped(packed.strides.get(name), stored.shape)
        strides = packed.strides.get(name) or _row_major(stored.shape)
        current = module._buffers.get(leaf)
        device = stored.device if current is None else current.device
        buffer = torch.empty_strided(stored.shape, strides, dtype=stored.dtype, device=device)
        module.register_buffer(leaf, buffer.copy_(stored), persistent=False)


def _refuse_gapped(strides: tuple[int, ...] | None, shape: torch.Size) -> None:
    """Refuse strides that no tensor of that shape was saved with: with gaps, it has no bound.

    Raises:
        ModelError: they are not those of the shape's own numbers, one beside the other.
    """
    if strides is None:
        return
    fits = len(strides) == len(shape)
    order = sorted(zip(strides, shape, strict=True)) if fits else []
    step = 1
    for stride, size in order:
        fits = fits and (size <= 1 or stride == step)
        step *= max(size, 1)
    if not fits:
        raise ModelError(
            f"strides of {list(strides)} do not fit a tensor of the shape {list(shape)}", _AGAIN
        )


def buffers_left_out(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield the buffers that are in no state dict.

    Their constructors make them again, but not always the same: a network converted to bfloat16
    has rounded tables, one resized has others.
    """
    for path, module in model.named_modules(remove_duplicate=False):
        for leaf in sorted(module._non_persistent_buffers_set):
            buffer = module._buffers.get(leaf)
            if buffer is not None:
                yield f"{path}.{leaf}" if path else leaf, buffer


def _place(model: nn.Module, name: str) -> tuple[dict[str, Any], str] | None:
    """The dict of parameters or buffers that holds a tensor, and its key there."""
    path, _, leaf = name.rpartition(".")
    try:
        module = model.get_submodule(path)
    except AttributeError:
        return None
    for registered in (module._parameters, module._buffers):
        if registered.get(leaf) is not None:
            return registered, leaf
    return None


def _apart(tensor: Tensor) -> Tensor:
    copy = torch.empty_like(tensor.detach())
    return nn.Parameter(copy, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else copy


def _refuse_unwritable(name: str, tensor: Any) -> None:
    why = None
    if isinstance(tensor, Tensor) and tensor.is_nested:
        why = "is a nested tensor, of parts of several sizes"
    elif not isinstance(tensor, Tensor):
        why = f"is a {type(tensor).__name__}, which could only be pickled"
    elif tensor.is_meta:
        why = "is on the meta device: it has no values"
    elif tensor.layout is not torch.strided or tensor.is_quantized:
        why = f"is not a plain tensor ({tensor.layout}, {tensor.dtype})"
    if why is not None:
        raise UsageError(
            f"the network cannot be saved: {name} {why}",
            "save a network with real, dense weights",
        )


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _row_major(shape: torch.Size) -> tuple[int, ...]:
    strides: list[int] = []
    step = 1
    for size in reversed(shape):
        strides.append(step)
        step *= max(size, 1)
    return tuple(reversed(strides))
