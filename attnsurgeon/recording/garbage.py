"""Python's cyclic garbage collector, at rest while a record is made.

A record is a million small objects that all stay. The collector walks over them again each time
they have grown by a quarter, to find nothing: a fifth of the time of an analysis. It is the
process's: beside other threads, whose garbage it collects too, it goes on.
"""

from __future__ import annotations

import contextlib
import gc
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Lets the collector rest inside, where this is the only thread; also a decorator."""
    rests = gc.isenabled() and threading.active_count() == 1
    if rests:
        gc.disable()
    try:
        yield
    finally:
        if rests:
            gc.enable()
