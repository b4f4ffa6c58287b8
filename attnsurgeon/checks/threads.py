"""A forward's size -> the threads it is worth: small ones run faster in few."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


@contextlib.contextmanager
def few_threads(macs: int) -> Iterator[None]:
    """Runs small forwards in as few threads of this process as they need.

    Threads that wait for each other spin: beside a busy core a forward of 0.1 s took twenty times
    as much. One thread computes some 20 billion MACs in about a second.
    """
    import torch  # not at the top: commands import this file before they need it

    usual = torch.get_num_threads()
    torch.set_num_threads(min(usual, 1 + macs // 20_000_000_000))
    try:
        yield
    finally:
        torch.set_num_threads(usual)
