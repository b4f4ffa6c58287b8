"""A file -> the example input that stands in it; nothing of the file is run."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from attnsurgeon.errors import ModelError
from attnsurgeon.models.checkpoint import read_checkpoint
from attnsurgeon.models.files.stand_ins import StandIn
from attnsurgeon.models.foreign import first_line, guarded
from attnsurgeon.models.suggestions import nearest_file
from attnsurgeon.sizes import MAX_ELEMENTS

_HOW = "torch.save(example, 'input.pt') writes one; .npz, .npy and .safetensors are read as well"
_MOST_BYTES = 8 * MAX_ELEMENTS


def read_example(path: str | os.PathLike[str]) -> Any:
    """Read an example input: of `torch.save`, numpy, or safetensors.

    Args:
        path: of the file. What torch.save wrote is given as it is, an array of numpy as a tensor,
            and of a .npz or .safetensors file the tensors by their names.

    Raises:
        ModelError: there is no such file, it is something else, or it is damaged.
    """
    file = Path(os.path.expanduser(path))
    if "\0" in os.fspath(path) or not file.is_file():
        raise ModelError(f"there is no file {path} with an input", nearest_file(file))
    if file.stat().st_size > _MOST_BYTES:
        raise ModelError(f"{path} is too large to be an example input", _HOW)
    read = _READERS.get(file.suffix.lower(), _read_torch)
    return guarded(partial(read, file), partial(_unreadable, file))


def _read_torch(file: Path) -> Any:
    try:
        content = read_checkpoint(file).content
    except ModelError as error:
        what = error.what.replace("checkpoint ", "the input ", 1)
        raise ModelError(what, _HOW) from error
    return _in_plain_containers(content)


def _in_plain_containers(value: Any) -> Any:
    """The value, with a dict for an ordered one and the like; of other objects nothing is made."""
    if isinstance(value, StandIn):
        raise ModelError(
            f"the input holds {value!r}, and nothing that a file names is made or run",
            f"save what the forward takes: tensors, in lists, tuples and dicts; {_HOW}",
        )
    if isinstance(value, Mapping):
        return {key: _in_plain_containers(one) for key, one in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(_in_plain_containers, value))
    return value


def _read_array(file: Path) -> Any:
    return _as_tensor(_numpy().load(file, allow_pickle=False, mmap_mode=None))


def _read_arrays(file: Path) -> Any:
    with _numpy().load(file, allow_pickle=False) as found:
        sizes = {name.removesuffix(".npy"): info.file_size for name, info in _entries(found)}
        if sum(sizes.values()) > _MOST_BYTES:
            raise ModelError(f"{file} is too large to be an example input", _HOW)
        return {name: _as_tensor(found[name]) for name in found.files}


def _entries(found: Any) -> list[tuple[str, Any]]:
    return [(info.filename, info) for info in found.zip.infolist()]


def _as_tensor(array: Any) -> torch.Tensor:
    return torch.from_numpy(array)


def _numpy() -> Any:
    import numpy

    return numpy


def _unreadable(file: Path, error: BaseException) -> ModelError:
    if isinstance(error, ModuleNotFoundError):
        return ModelError(f"{file} needs numpy, which is not installed", _HOW)
    return ModelError(f"the input {file.name} cannot be read: {first_line(error)}", _HOW)


_READERS: Mapping[str, Callable[[Path], Any]] = {".npy": _read_array, ".npz": _read_arrays}
