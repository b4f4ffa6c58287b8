"""A file or folder of weights -> what it holds; its first bytes decide how it is read."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass, field
from functools import partial
from mmap import ACCESS_COPY, mmap
from pathlib import Path
from typing import Any

import torch

from attnsurgeon.errors import ModelError
from attnsurgeon.models.files.archives import DAMAGED
from attnsurgeon.models.files.folders import (
    METADATA,
    is_index,
    read_distributed,
    read_index,
    weights_in,
)
from attnsurgeon.models.files.limits import Meter, Unreadable
from attnsurgeon.models.files.safetensors_files import is_safetensors, read_safetensors
from attnsurgeon.models.files.torch_files import read_torch_file
from attnsurgeon.models.foreign import guarded
from attnsurgeon.models.suggestions import nearest_file
from attnsurgeon.recording.garbage import uncollected

_AGAIN = (
    "it may be incomplete: compare its size with the original and copy or download it again; read"
    " are .safetensors files, those of torch.save, and folders of either"
)


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds, before anything in it is taken for weights.

    Attributes:
        name: of the file.
        content: all of it, as plain values, tensors and stand-ins.
        meter: what reading it has cost; looking into it goes on counting.
    """

    name: str
    content: Any = field(repr=False)
    meter: Meter = field(default_factory=lambda: Meter(0), repr=False)


@uncollected()
def read_checkpoint(path: str | os.PathLike[str], unsafe_pickle: bool = False) -> Checkpoint:
    """Read a file of weights: safetensors, torch.save of any age, TorchScript, or a folder of them.

    Nothing that the file says is imported or called; see `files/pickles.py`.

    Args:
        path: of the file, of an index of several, or of a folder.
        unsafe_pickle: let the file execute code, and make the objects it names.

    Raises:
        ModelError: there is no such file, it is something else, it is damaged, or reading it
            takes more than the limits allow.
    """
    file = _file_at(Path(os.path.expanduser(path)), os.fspath(path))
    meter = Meter(_size_of(file))
    content = guarded(partial(_content, file, meter, unsafe_pickle), partial(unreadable, file.name))
    name = file.parent.name if file.name == METADATA else file.name
    return Checkpoint(name, content, meter)


def _file_at(file: Path, given: str) -> Path:
    if "\0" in given:
        raise ModelError("the path of the checkpoint has a zero byte in it")
    if "://" in given:
        raise ModelError(
            f"checkpoint {given} is an address, not a file",
            "download it first: nothing is fetched here",
        )
    if file.is_dir():
        inside = weights_in(file)
        if inside is None or (file / "surgery.json").is_file():
            raise ModelError(
                f"checkpoint {given} is a folder",
                "name the file of weights in it; a network saved after surgery is read whole by"
                f" attnsurgeon.load({given!r})",
                command="name the file of weights in it; a network saved after surgery is read"
                f" whole by `attnsurgeon verify {given}`",
            )
        return inside
    if not file.is_file():
        raise ModelError(f"there is no checkpoint {given}", nearest_file(file))
    return file


def _size_of(file: Path) -> int:
    if file.name != METADATA:
        return file.stat().st_size
    return sum(part.stat().st_size for part in file.parent.iterdir() if part.is_file())


def _content(file: Path, meter: Meter, unsafe_pickle: bool) -> Any:
    if is_index(file):
        return read_index(file, lambda shard: _content(shard, _meter_of(shard), unsafe_pickle))
    if file.name == METADATA:
        described = _read_whole(file, meter)
        return read_distributed(file.parent, described, partial(_read_part, meter=meter))
    head = _head(file)
    if is_safetensors(head):
        return read_safetensors(file)
    if not head.startswith(b"PK\x03\x04") and not _is_tar(head) and not _is_pickle(file, head):
        raise _foreign_file(file, head)
    return _run(file) if unsafe_pickle else _read_whole(file, meter)


def _meter_of(file: Path) -> Meter:
    return Meter(file.stat().st_size)


def _read_whole(file: Path, meter: Meter) -> Any:
    with file.open("rb") as stream:
        # Tensors are laid over the file; it stays mapped for as long as one of them lives. A
        # change of theirs is theirs alone.
        return read_torch_file(stream, mmap(stream.fileno(), 0, access=ACCESS_COPY), meter)


def _read_part(file: Path, start: int, length: int, meter: Meter) -> Any:
    import io

    with file.open("rb") as stream:
        stream.seek(start)
        part = bytearray(stream.read(min(length, meter.size)))
    head = bytes(part[:9])
    if is_safetensors(head):
        from safetensors.torch import load

        return next(iter(load(bytes(part)).values()), None)
    return read_torch_file(io.BytesIO(part), part, meter)


def _run(file: Path) -> Any:
    """Read a file by torch alone, which executes what it says."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Detected pickle protocol")
        return torch.load(file, map_location="cpu", weights_only=False)


def _head(file: Path) -> bytes:
    with file.open("rb") as stream:
        return stream.read(512)


def _is_tar(head: bytes) -> bool:
    return head[257:262] == b"ustar"


def _is_pickle(file: Path, head: bytes) -> bool:
    """Tell by its first byte; the two oldest protocols look like text, but for their last byte."""
    if head[:1] != b"\x80" and head[:1] in b"(]}c" and head:
        with file.open("rb") as stream:
            stream.seek(-1, os.SEEK_END)
            return stream.read() == b"."
    return head[:1] == b"\x80"


def unreadable(name: str, error: BaseException) -> ModelError:
    """Return what is said of a file that cannot be read, or not be looked through."""
    if isinstance(error, Unreadable):
        return ModelError(f"checkpoint {name} cannot be read: {error}", _AGAIN)
    reason = (str(error).strip().splitlines() or [""])[0][:200]
    hint = None if isinstance(error, OSError) else _AGAIN  # a permission is not a broken file
    kind = "it is damaged" if isinstance(error, DAMAGED) else type(error).__name__
    return ModelError(
        f"checkpoint {name} cannot be read: {kind}" + (f": {reason}" if reason else ""), hint
    )


def _foreign_file(file: Path, head: bytes) -> ModelError:
    what = "starts with unknown bytes"
    hint = "give a .safetensors file or one written by torch.save"
    if not head:
        what, hint = "is empty", _AGAIN
    elif head.startswith(b"version https://git-lfs"):
        what = "is a git-lfs pointer, not the weights"
        hint = "run `git lfs pull` in its repository"
    elif head.lstrip()[:1] == b"<":
        what = "is a web page, not weights"
        hint = "download the file itself, not the page that shows it"
    elif not set(head) - set(range(32, 127)) - set(b"\t\n\r\f"):
        what = "is a text file, not weights"
    elif head.startswith(b"\x89HDF"):
        what = "is an HDF5 file, as Keras writes them"
    elif file.suffix == ".safetensors":
        what, hint = "is not what its name says: it has no safetensors header", _AGAIN
    return ModelError(f"checkpoint {file.name} {what}", hint)
