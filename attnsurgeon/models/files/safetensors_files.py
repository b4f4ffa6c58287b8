"""A safetensors file -> its tensors by name, laid over the file."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from attnsurgeon.models.files.limits import LIMITS, Unreadable


def is_safetensors(head: bytes) -> bool:
    """Tell by the layout: eight bytes of length, then a JSON object of about that length."""
    return head[8:9] == b"{" and 2 <= int.from_bytes(head[:8], "little") <= 100_000_000


def read_safetensors(file: Path) -> dict[str, Tensor]:
    """Read all tensors of a file.

    Raises:
        Unreadable: its header is larger than the limits allow.
    """
    from safetensors.torch import load_file

    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
    if length > LIMITS.header_bytes:
        raise Unreadable(f"its header has more than {LIMITS.header_bytes:,} bytes")
    return load_file(file)
