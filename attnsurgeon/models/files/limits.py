"""How much of a file of weights is read at most, in one table; `docs/checkpoints.md` shows it.

A file of some bytes may ask for more than a machine has: gigabytes in place of a number, a million
names for one object, an archive that unfolds to a thousand times its size. So nothing is made on
the word of a file alone, and all that is made is counted.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field


class Unreadable(Exception):
    """A file says something that no file of weights says, or more than the limits allow."""


@dataclass(frozen=True)
class Limits:
    """The limits for one file; of a folder, for each of its files.

    Attributes:
        seconds: to read a file and to look for weights in it.
        pickle_bytes: of one pickle; numbers of torch stand outside of it.
        pickle_steps: of one pickle, each of which makes or changes one value.
        copied_mebibytes, copied_times: what may be unfolded or copied while a file is read, as so
            many MiB and so many times the size of the file.
        tensors: in one file.
        archive_entries, archive_index_bytes: of a zip or tar file.
        header_bytes: of a safetensors file, and of the index of a folder of such.
        shards: files that one index or one folder of torch.distributed.checkpoint names.
        entries: values that are looked at in search of weights.
        depth: of values in values, and of modules in modules.
        name_length: of a parameter's name.
    """

    seconds: int = 30
    pickle_bytes: int = 1 << 30
    pickle_steps: int = 1_000_000
    copied_mebibytes: int = 64
    copied_times: int = 4
    tensors: int = 100_000
    archive_entries: int = 200_000
    archive_index_bytes: int = 1 << 25
    header_bytes: int = 1 << 24
    shards: int = 10_000
    entries: int = 100_000
    depth: int = 64
    name_length: int = 1_000


LIMITS = Limits()


@dataclass
class Meter:
    """What one file has cost so far, and what it says of its own parts.

    Attributes:
        size: of the file, in bytes.
        sums: where in memory numbers of the file stand -> whether they are what was written.
    """

    size: int
    limits: Limits = LIMITS
    sums: dict[int, Callable[[], bool]] = field(default_factory=dict, repr=False)
    _end: float = field(init=False)
    _copied: int = 0
    _tensors: int = 0

    def __post_init__(self) -> None:
        self._end = time.monotonic() + self.limits.seconds

    def tick(self) -> None:
        """Refuses a file that takes too long."""
        if time.monotonic() > self._end:
            raise Unreadable(f"reading it takes more than {self.limits.seconds} s")

    def copy(self, count: int) -> None:
        """Counts bytes that are about to be made besides those of the file itself."""
        self._copied += count
        allowed = (self.limits.copied_mebibytes << 20) + self.limits.copied_times * self.size
        if self._copied > allowed:
            raise Unreadable(f"it unfolds to more than {allowed:,} bytes")

    def tensor(self) -> None:
        """Counts a tensor that is about to be made."""
        self._tensors += 1
        if self._tensors > self.limits.tensors:
            raise Unreadable(f"it holds more than {self.limits.tensors:,} tensors")
