"""Names of modules that pickles hold -> where those modules stand today.

A pickled network names the modules of its classes, and the generated forwards name those of the
functions they call. What has moved since is found here under the name it had, so that a network
pickled by an earlier version is still read. Nothing else imports by these names.
"""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

# Only what pickles can name; checked by tests/saved/test_written.py against those of 0.1.
MOVED = {
    "attnsurgeon.passage": "attnsurgeon.splicing.channels_first",
    "attnsurgeon.retype": "attnsurgeon.forwards.retype",
    "attnsurgeon.splice": "attnsurgeon.splicing.history",
}


class _Finder(MetaPathFinder, Loader):
    """Makes for an old name a module that hands on to the new one."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: Any = None
    ) -> ModuleSpec | None:
        return ModuleSpec(fullname, self) if fullname in MOVED else None

    def exec_module(self, module: ModuleType) -> None:
        new = importlib.import_module(MOVED[module.__name__])
        module.__getattr__ = functools.partial(getattr, new)  # type: ignore[method-assign]


def install() -> None:
    """Lets the old names be imported; asked after every other finder."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())
