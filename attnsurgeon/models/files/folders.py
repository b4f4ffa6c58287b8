"""A folder of weights, or the index of one -> one mapping of names to tensors.

What Hugging Face writes (`model.safetensors`, or several files and an index that says which tensor
is in which), and what torch.distributed.checkpoint writes (pieces of tensors, and a pickle that
says where each belongs).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from attnsurgeon.models.files.limits import LIMITS, Unreadable
from attnsurgeon.models.files.stand_ins import StandIn
from attnsurgeon.models.files.values import as_dtype, is_shape

METADATA = ".metadata"  # of torch.distributed.checkpoint
_WHOLE = ("model.safetensors", "pytorch_model.bin", "diffusion_pytorch_model.safetensors")
_INDEX = ".index.json"


def weights_in(folder: Path) -> Path | None:
    """Return the file of a folder to read its weights from; None where nothing says which."""
    for name in (METADATA, *_WHOLE, *(f"{whole}{_INDEX}" for whole in _WHOLE)):
        if (folder / name).is_file():
            return folder / name
    return None


def is_index(file: Path) -> bool:
    """Whether a file is the index of several files of weights, by its name."""
    return file.name.endswith(_INDEX)


def read_index(file: Path, read: Callable[[Path], Any]) -> dict[str, Any]:
    """Read the files that an index names, which have to lie beside it.

    Raises:
        Unreadable: it is no index, or a file or a tensor is missing.
    """
    if file.stat().st_size > LIMITS.header_bytes:
        raise Unreadable(f"its index has more than {LIMITS.header_bytes:,} bytes")
    try:
        content = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"its index is no JSON: {error}") from error
    named = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(named, dict) or not all(isinstance(part, str) for part in named.values()):
        raise Unreadable("its index has no weight_map")
    whole: dict[str, Any] = {}
    for shard in _beside(file.parent, named.values()):
        held = read(shard)
        if not isinstance(held, Mapping):
            raise Unreadable(f"{shard.name} holds no weights by name")
        whole |= {name: held.get(name) for name, home in named.items() if home == shard.name}
    missing = [name for name, value in whole.items() if value is None]
    if missing:
        raise Unreadable(f"{named[missing[0]]} does not hold {missing[0]}, as its index says")
    return whole


def _beside(folder: Path, names: Any) -> list[Path]:
    """The files of these names, each once; none outside of the folder."""
    distinct = list(dict.fromkeys(names))
    if len(distinct) > LIMITS.shards:
        raise Unreadable(f"it names more than {LIMITS.shards:,} files")
    files = [folder / name for name in distinct]
    for name, file in zip(distinct, files, strict=True):
        if Path(name).name != name or "\0" in name or "\\" in name:
            raise Unreadable(f"it names a file outside of its folder: {name!r}")
        if not file.is_file():
            raise Unreadable(f"{name} is missing, which it names")
    return files


def read_distributed(
    folder: Path, described: Any, read: Callable[[Path, int, int], Any]
) -> dict[str, Tensor]:
    """Put together the tensors of a torch.distributed.checkpoint.

    Args:
        folder: of the checkpoint.
        described: what its `.metadata` holds.
        read: what a file holds between two places.

    Raises:
        Unreadable: the pieces do not make up the tensors.
    """
    tensors = _attribute(described, "state_dict_metadata")
    places = _attribute(described, "storage_data")
    if not isinstance(tensors, dict) or not isinstance(places, dict):
        raise Unreadable("its .metadata does not say where its tensors are")
    pieces: dict[str, list[tuple[tuple[int, ...], Any]]] = {}
    for index, place in places.items():
        name, offset = _attribute(index, "fqn"), _attribute(index, "offset")
        if isinstance(name, str) and is_shape(offset):
            pieces.setdefault(name, []).append((tuple(offset), place))
    files = _beside(folder, [_attribute(place, "relative_path") for place in places.values()])
    homes = {file.name: file for file in files}
    whole: dict[str, Tensor] = {}
    for name, described_tensor in tensors.items():
        size = _attribute(described_tensor, "size")
        if isinstance(name, str) and is_shape(size):
            parts = [(offset, _piece(place, homes, read)) for offset, place in pieces.get(name, ())]
            dtype = as_dtype(_attribute(described_tensor, "properties"))
            whole[name] = _joined(name, tuple(size), dtype, parts)
    return whole


def _piece(place: Any, homes: dict[str, Path], read: Callable[[Path, int, int], Any]) -> Tensor:
    start, length = _attribute(place, "offset"), _attribute(place, "length")
    if type(start) is not int or type(length) is not int or start < 0 or length < 0:
        raise Unreadable("its .metadata does not say where its tensors are")
    held = read(homes[_attribute(place, "relative_path")], start, length)
    if not isinstance(held, Tensor):
        raise Unreadable("a piece of a tensor is no tensor")
    if held.numel() * held.element_size() > held.untyped_storage().nbytes():
        raise Unreadable("a piece of a tensor repeats its numbers")
    return held


def _joined(
    name: str,
    size: tuple[int, ...],
    dtype: torch.dtype | None,
    parts: list[tuple[tuple[int, ...], Tensor]],
) -> Tensor:
    """One tensor of its pieces, which have to cover it, each number once."""
    if sum(part.numel() for _, part in parts) != math.prod(size):
        raise Unreadable(f"the pieces of {name} do not make up its shape")
    if len(parts) == 1 and parts[0][1].shape == size:
        return parts[0][1]
    whole = torch.empty(size, dtype=dtype or parts[0][1].dtype)
    seen = torch.zeros(size, dtype=torch.bool)
    for offset, part in parts:
        ends = [start + many for start, many in zip(offset, part.shape, strict=False)]
        if len(offset) != len(size) or any(e > s for e, s in zip(ends, size, strict=False)):
            raise Unreadable(f"a piece of {name} lies outside of it")
        at = tuple(slice(start, end) for start, end in zip(offset, ends, strict=True))
        whole[at], seen[at] = part, True
    if not bool(seen.all()):
        raise Unreadable(f"the pieces of {name} overlap")
    return whole


def _attribute(holder: Any, name: str) -> Any:
    return holder.attributes.get(name) if isinstance(holder, StandIn) else None
