"""A zip file -> its entries by name, none larger than it may be."""

from __future__ import annotations

import contextlib
import struct
import zipfile
import zlib
from collections.abc import Iterator
from functools import partial
from mmap import mmap
from typing import IO, Any

import torch

from attnsurgeon.models.files.limits import Meter, Unreadable

_LOCAL_HEADER = struct.Struct("<4s22xHH")  # signature; lengths of the name and of the extra field
_ALIGNED = 16  # torch computes with numbers that stand at such places


class Archive:
    """A zip file; of the entries of torch.save, which all lie in one folder, names without it."""

    def __init__(self, stream: IO[bytes], memory: mmap | bytearray, meter: Meter) -> None:
        self._memory, self._meter = memory, meter
        _refuse_large_index(memory, meter)
        with contextlib.ExitStack() as stack:
            self._zip = stack.enter_context(zipfile.ZipFile(stream))
            stack.pop_all()  # the stream is its owner's to close
        found = self._zip.infolist()
        if len(found) > meter.limits.archive_entries:
            raise Unreadable(f"it has more than {meter.limits.archive_entries:,} entries")
        self.names = [info.filename for info in found]
        pickles = [n for n in self.names if n == "data.pkl" or n.endswith("/data.pkl")]
        self.folder = min(pickles, key=len, default="").removesuffix("data.pkl")
        self._entries = {info.filename: info for info in found}

    def __contains__(self, name: str) -> bool:
        return self.folder + name in self._entries

    def read(self, name: str) -> bytes:
        """Returns the bytes of an entry, which are counted."""
        info = self._entry(name)
        self._meter.copy(info.file_size)
        with self._zip.open(info) as stream:
            content = stream.read(info.file_size + 1)
        if len(content) != info.file_size:
            raise Unreadable(f"its entry {name} is not as long as it says")
        return content

    def storage(self, name: str, count: int) -> torch.UntypedStorage:
        """Returns the numbers of an entry: where they lie in the file, if they are not packed."""
        info = self._entry(name)
        if count > info.file_size:
            raise Unreadable(f"its entry {name} is shorter than it should be")
        if info.compress_type != zipfile.ZIP_STORED:
            return memory_of(bytearray(self.read(name)), 0, count)
        head = self._memory[info.header_offset : info.header_offset + _LOCAL_HEADER.size]
        signature, *lengths = _LOCAL_HEADER.unpack(head)
        start = info.header_offset + _LOCAL_HEADER.size + sum(lengths)
        if signature != b"PK\x03\x04" or start + count > len(self._memory):
            raise Unreadable(f"its entry {name} is not where it should be")
        if start % _ALIGNED:
            self._meter.copy(count)
            made = memory_of(bytearray(self._memory[start : start + count]), 0, count)
        else:
            made = memory_of(self._memory, start, count)
        if count and count == info.file_size:
            whole = partial(_is_as_written, self._memory, start, count, info.CRC)
            self._meter.sums[made.data_ptr()] = whole
        return made

    def _entry(self, name: str) -> zipfile.ZipInfo:
        try:
            return self._entries[self.folder + name]
        except KeyError:
            raise Unreadable(f"it has no entry {name}") from None


def _is_as_written(memory: mmap | bytearray, start: int, count: int, expected: int) -> bool:
    with memoryview(memory) as whole, whole[start : start + count] as part:
        return zlib.crc32(part) == expected


def memory_of(buffer: Any, start: int, count: int) -> torch.UntypedStorage:
    """Return bytes of a buffer as torch's memory; nothing is copied."""
    if not count:
        return torch.UntypedStorage(0)
    if start < 0 or start + count > len(buffer):
        raise Unreadable("it is shorter than it should be")
    return torch.frombuffer(buffer, dtype=torch.uint8, count=count, offset=start).untyped_storage()


def _refuse_large_index(memory: mmap | bytearray, meter: Meter) -> None:
    """Refuse a zip file with an index that is too large, before it is read as a whole."""
    for size in _index_sizes(memory):
        if size > meter.limits.archive_index_bytes:
            raise Unreadable(f"its index has more than {meter.limits.archive_index_bytes:,} bytes")


def _index_sizes(memory: mmap | bytearray) -> Iterator[int]:
    """The sizes of the index as the two kinds of records at the end of a zip file tell it."""
    tail = bytes(memory[-(1 << 16) - 22 :])
    if (at := tail.rfind(b"PK\x05\x06")) >= 0 and len(tail) >= at + 16:
        size = int.from_bytes(tail[at + 12 : at + 16], "little")
        if size != 0xFFFFFFFF:
            yield size
    if (at := tail.rfind(b"PK\x06\x06")) >= 0 and len(tail) >= at + 48:
        yield int.from_bytes(tail[at + 40 : at + 48], "little")


DAMAGED = (zipfile.BadZipFile, zlib.error, struct.error, NotImplementedError, EOFError)
