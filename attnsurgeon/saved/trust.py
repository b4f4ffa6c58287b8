"""What a saved folder names as its base network -> whether it may be built, before anything is.

A folder may come from anywhere. What it names is built unasked only where it is of the closed
vocabulary (`models.vocabulary`) and of a size that belongs to its weights (`models.bounded`);
everything else is code or an address, and needs the word of the one who loads it.
"""

from __future__ import annotations

import os
from pathlib import Path

from attnsurgeon.errors import ModelError
from attnsurgeon.models import Source
from attnsurgeon.models.bounded import refuse_too_large
from attnsurgeon.models.vocabulary import objection, reserved
from attnsurgeon.saved.folder import RECORD

GIVE_THE_BASE = "build the base network yourself and pass it: attnsurgeon.load(path, model=base)"
_ALLOW = "if you trust it, say so: attnsurgeon.load(path, trust=True) (--trust-code)"


def refuse_untrusted(source: Source, folder: Path, *, trust: bool, most: int | None) -> None:
    """Refuse a base network that a folder may not have built.

    Args:
        source: what the folder says of it.
        folder: the folder.
        trust: whether the caller lets the folder name code and addresses.
        most: numbers that the network may hold, as for `refuse_too_large`.

    Raises:
        ModelError: saying what the folder wants to run, where that stands, and how to allow it.
    """
    says = f"{folder / RECORD} says that its base network is built by {source.spec!r}"
    if wrong := reserved(source.model_args):
        raise ModelError(f"{says}; {wrong}", GIVE_THE_BASE)
    if trust:
        return
    if wrong := objection(source.spec, source.model_args):
        raise ModelError(f"{says}; {wrong}", f"{_ALLOW}; or {GIVE_THE_BASE}")
    refuse_too_large(source.spec, source.model_args, most)


def needs_trust(source: Source | None) -> bool:
    """Tell whether the one who loads a folder has to allow what it names."""
    try:
        return source is not None and objection(source.spec, source.model_args) is not None
    except ModelError:  # a package that is missing here, and known by its name
        return False


def size_of(file: str | os.PathLike[str]) -> int:
    """Return the bytes of a file, or of all files of a folder; a number takes at least one."""
    path = Path(file)
    try:
        found = [one for one in path.rglob("*") if one.is_file()] if path.is_dir() else [path]
        return sum(one.stat().st_size for one in found)
    except OSError:  # that it is not there is said where it is read
        return 0
