"""A file of `torch.save`, of any age, or of `pickle.dump` -> the value in it, never run.

Three formats: a zip file (since torch 1.6), several pickles with the numbers behind them, and a tar
file (before 0.2). A TorchScript archive is a zip file, too; of it the attributes are read, never
the code.
"""

from __future__ import annotations

import io
import struct
import sys
import tarfile
from functools import partial
from mmap import mmap
from typing import IO, Any

import torch

from attnsurgeon.models.files.archives import Archive, memory_of
from attnsurgeon.models.files.limits import Meter, Unreadable
from attnsurgeon.models.files.pickles import read_pickle
from attnsurgeon.models.files.stand_ins import Name, StandIn
from attnsurgeon.models.files.values import Finder, Stored, strided

_MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of the second format
_TAR_PARTS = ("storages", "tensors", "pickle")


def read_torch_file(stream: IO[bytes], memory: mmap | bytearray, meter: Meter) -> Any:
    """Read what is in a file.

    Args:
        stream: the file, open.
        memory: the same, as memory.
        meter: counts.

    Raises:
        Unreadable: it is damaged, another kind of file, or asks for more than the limits allow.
    """
    if memory[:2] == b"PK":
        return _read_zip(Archive(stream, memory, meter), meter)
    if memory[257:262] == b"ustar":
        return _read_tar(stream, meter)
    return _read_pickles(memory, meter, inside=False)


def _read_inner(meter: Meter, content: bytes) -> Any:
    """Read the file in which `pickle.dump` keeps the numbers of a tensor; none within that."""
    meter.copy(2 * len(content))
    return _read_pickles(bytearray(content), meter, inside=True)


def _read_zip(archive: Archive, meter: Meter) -> Any:
    if "data.pkl" not in archive:
        some = ", ".join(repr(name)[1:-1][:40] for name in archive.names[:5])
        raise Unreadable(f"it is a zip archive without weights of torch.save (it holds {some})")
    order = archive.read("byteorder") if "byteorder" in archive else b"little"
    storages: dict[Any, torch.UntypedStorage] = {}

    def stored(reference: Any) -> Any:
        kind, key, count = _reference(reference)
        size = count * kind.itemsize
        if key not in storages or storages[key].nbytes() < size:
            storages[key] = archive.storage(f"data/{key}", size)
            if order.decode("latin-1") not in ("", sys.byteorder):
                meter.copy(size)
                storages[key] = storages[key].clone()
                storages[key].byteswap(kind)
        return Stored(storages[key], kind)

    return read_pickle(io.BytesIO(archive.read("data.pkl")), meter, Finder(meter), stored)


def _reference(reference: Any) -> tuple[torch.dtype, str, int]:
    """Take apart `("storage", kind, key, location, count)`."""
    if not isinstance(reference, tuple) or len(reference) < 5:
        raise Unreadable("its pickle refers to what is no storage")
    word, kind, key, _, count = reference[:5]
    known = isinstance(kind, Name) and isinstance(kind.dtype, torch.dtype)
    if _text(word) != "storage" or not known or type(count) is not int or not 0 <= count < 1 << 48:
        raise Unreadable("its pickle refers to what is no storage")
    return kind.dtype, _text(key), count


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if isinstance(value, int):
        return str(value) if 0 <= value < 1 << 64 else ""
    return value if isinstance(value, str) else ""


def _read_pickles(memory: mmap | bytearray, meter: Meter, *, inside: bool) -> Any:
    """The second format: a number, a version, the system, the value, keys; then the numbers.

    Anything else that begins with a pickle is that pickle.
    """
    stream = memory if isinstance(memory, mmap) else io.BytesIO(memory)
    stream.seek(0)
    find = Finder(meter, inner=None if inside else partial(_read_inner, meter))
    first = read_pickle(stream, meter, find, lambda _: None)
    if first != _MAGIC:
        return first
    for _ in range(2):
        read_pickle(stream, meter, find, lambda _: None)
    # The numbers stand behind the pickle that refers to them: it is read twice.
    start = stream.tell()
    referred: dict[str, tuple[torch.dtype, int]] = {}

    def note(reference: Any) -> Any:
        if _is_module(reference):
            return reference[1]
        kind, key, count = _reference(reference)
        referred[key] = kind, count
        return None

    read_pickle(stream, meter, Finder(meter, makes=False), note)
    keys = read_pickle(stream, meter, find, lambda _: None)
    storages = _numbers_behind(memory, stream.tell(), keys, referred)

    def stored(reference: Any) -> Any:
        if _is_module(reference):
            return reference[1]
        kind, key, _ = _reference(reference)
        if key not in storages:
            raise Unreadable("its pickle refers to numbers that are not there")
        memory = storages[key]
        view = reference[5] if len(reference) > 5 else None
        if view is not None:
            _, offset, count = view
            at, size = offset * kind.itemsize, count * kind.itemsize
            if not 0 <= at <= at + size <= memory.nbytes():
                raise Unreadable("its pickle refers to numbers that are not there")
            memory = memory[at : at + size]
        return Stored(memory, kind)

    stream.seek(start)
    return read_pickle(stream, meter, find, stored)


def _is_module(reference: Any) -> bool:
    """Whether a reference is a class of modules with its source beside it."""
    return isinstance(reference, tuple) and len(reference) > 1 and _text(reference[0]) == "module"


def _numbers_behind(
    memory: mmap | bytearray, at: int, keys: Any, referred: dict[str, tuple[torch.dtype, int]]
) -> dict[str, torch.UntypedStorage]:
    """The numbers of each key, one after another: how many, then they themselves."""
    if not isinstance(keys, list):
        raise Unreadable("its numbers are not named")
    storages: dict[str, torch.UntypedStorage] = {}
    for key in map(_text, keys):
        if key not in referred:
            raise Unreadable("it holds numbers that nothing refers to")
        storages[key], at = _storage_at(memory, at, referred[key][0])
    return storages


def _storage_at(
    memory: mmap | bytearray, at: int, kind: torch.dtype
) -> tuple[torch.UntypedStorage, int]:
    (count,) = struct.unpack("<q", memory[at : at + 8])
    size = count * kind.itemsize
    if count < 0:
        raise Unreadable("it is damaged")
    # Copied: numbers in the midst of pickles stand where torch cannot compute with them.
    if at + 8 + size > len(memory):
        raise Unreadable("it is shorter than it should be: its end is missing")
    return memory_of(bytearray(memory[at + 8 : at + 8 + size]), 0, size), at + 8 + size


def _read_tar(stream: IO[bytes], meter: Meter) -> Any:
    stream.seek(0)
    parts: dict[str, bytearray] = {}
    with tarfile.open(fileobj=stream, mode="r:") as archive:
        for count, member in enumerate(archive):
            if count > 16:
                break
            if member.name in _TAR_PARTS and member.isreg():
                content = archive.extractfile(member)
                if member.size > meter.size or content is None:
                    raise Unreadable("its parts are longer than itself")
                parts[member.name] = bytearray(content.read(member.size))
    if set(parts) != set(_TAR_PARTS):
        raise Unreadable("it is a tar archive without weights")
    find = Finder(meter)
    storages = _tar_storages(parts["storages"], find, meter)
    tensors = _tar_tensors(parts["tensors"], storages, find, meter)

    def known(reference: Any) -> Any:
        if isinstance(reference, tuple) and reference:
            return reference[0]
        found = storages.get(_text(reference), tensors.get(_text(reference)))
        return StandIn("nothing") if found is None else found

    return read_pickle(io.BytesIO(parts["pickle"]), meter, find, known)


def _tar_storages(part: bytearray, find: Finder, meter: Meter) -> dict[str, Stored]:
    stream = io.BytesIO(part)
    storages: dict[str, Stored] = {}
    for _ in range(_count(read_pickle(stream, meter, find, lambda _: None), meter)):
        key, _, kind = _triple(read_pickle(stream, meter, find, lambda _: None))
        if not isinstance(kind, Name) or not isinstance(kind.dtype, torch.dtype):
            raise Unreadable("it holds numbers of an unknown kind")
        memory, end = _storage_at(part, stream.tell(), kind.dtype)
        storages[_text(key)] = Stored(memory, kind.dtype)
        stream.seek(end)
    views = read_pickle(stream, meter, find, lambda _: None)
    for target, root, offset, count in views if isinstance(views, list) else ():
        whole = storages[_text(root)]
        at, size = offset * whole.dtype.itemsize, count * whole.dtype.itemsize
        if not 0 <= at <= at + size <= whole.memory.nbytes():
            raise Unreadable("it refers to numbers that are not there")
        storages[_text(target)] = Stored(whole.memory[at : at + size], whole.dtype)
    return storages


def _tar_tensors(
    part: bytearray, storages: dict[str, Stored], find: Finder, meter: Meter
) -> dict[str, torch.Tensor]:
    stream = io.BytesIO(part)
    tensors: dict[str, torch.Tensor] = {}
    for _ in range(_count(read_pickle(stream, meter, find, lambda _: None), meter)):
        key, storage, _ = _triple(read_pickle(stream, meter, find, lambda _: None))
        (dimensions,) = struct.unpack("<i4x", stream.read(8))
        if not 0 <= dimensions <= 64:
            raise Unreadable("it is damaged")
        size = struct.unpack(f"<{dimensions}q", stream.read(8 * dimensions))
        stride = struct.unpack(f"<{dimensions}q", stream.read(8 * dimensions))
        (offset,) = struct.unpack("<q", stream.read(8))
        stored = storages.get(_text(storage))
        tensors[_text(key)] = strided(meter, stored, offset, size, stride)
    return tensors


def _count(value: Any, meter: Meter) -> int:
    if type(value) is not int or not 0 <= value <= meter.limits.tensors:
        raise Unreadable("it is damaged")
    return value


def _triple(value: Any) -> tuple[Any, Any, Any]:
    if not isinstance(value, tuple) or len(value) != 3:
        raise Unreadable("it is damaged")
    return value
