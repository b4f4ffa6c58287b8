"""Files -> a folder that is there whole or not at all.

The files are written to a new folder beside the wanted one, which then takes its name. A folder
that is overwritten changes places with the new one in a single step where the system has one, so
that a crash at any moment leaves the old folder or the new one. The draft that a crash leaves is
removed by whoever writes there next.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from attnsurgeon.errors import UsageError
from attnsurgeon.saved.drafts import draft_beside, named, put_aside, refusing

RECORD = "surgery.json"
CARD = "README.md"
CONFIG = "config.json"
TENSORS = ("model.safetensors", "adapter.safetensors", "buffers.safetensors")
FILES = (RECORD, CARD, CONFIG, *TENSORS)


def check_output(path: str | os.PathLike[str], overwrite: bool = False) -> Path:
    """Refuse, before any expensive work, a folder that could not be written.

    Args:
        path: of the folder.
        overwrite: whether a folder that this tool wrote may be replaced.

    Returns:
        The path with symbolic links followed.

    Raises:
        UsageError: saying why, and what to do.
    """
    with refusing(path):
        target = _resolve(path)
        _refuse_existing(target, path, overwrite)
        existing = next(parent for parent in target.parents if parent.exists())
        if not existing.is_dir():
            raise UsageError(f"cannot write {path}: {existing} is a file", "choose another folder")
        if not os.access(existing, os.W_OK | os.X_OK):
            raise UsageError(f"cannot write {path}: no permission in {existing}", _ELSEWHERE)
    return target


@contextlib.contextmanager
def new_folder(path: str | os.PathLike[str], *, overwrite: bool = False) -> Iterator[Path]:
    """Give an empty folder to write into; when the block ends it becomes the folder `path`.

    Parents are created. When the block raises, or the disk is full, nothing has changed.

    Raises:
        UsageError: it cannot be written.
    """
    target = check_output(path, overwrite)
    with refusing(path):
        made = _create_parents(target.parent)
        try:
            with draft_beside(target) as draft:  # in the end the old folder, or none
                yield draft
                _flush(draft)
                _put_in_place(draft, target, path, overwrite)
                made = []
        finally:
            for parent in made:
                with contextlib.suppress(OSError):  # somebody else uses it by now
                    parent.rmdir()


_ELSEWHERE = "choose a folder where you may write"


def _resolve(path: str | os.PathLike[str]) -> Path:
    try:
        return named(path, option="-o DIR").resolve()
    except RuntimeError as error:  # a loop of links
        raise UsageError(f"{str(path)!r} is not a path: {error}", "choose another name") from error


def _refuse_existing(target: Path, shown: object, overwrite: bool) -> None:
    if not target.exists():
        return
    if not target.is_dir():
        raise UsageError(f"{shown} is a file", "the output is a folder: choose another name")
    entries = sorted(entry.name for entry in target.iterdir())
    ours = RECORD in entries or not entries
    if not overwrite:
        hint = "choose another folder, or allow to replace it: overwrite=True"
        raise UsageError(f"{shown} exists", hint if ours else "choose another folder")
    if not ours:
        raise UsageError(
            f"{shown} has no {RECORD}, so this tool did not write it, and it is not overwritten",
            "choose another folder",
        )
    others = [name for name in entries if name not in FILES]
    if others:
        more = f" and {len(others) - 3} more" if len(others) > 3 else ""
        raise UsageError(
            f"{shown} also holds {', '.join(others[:3])}{more}, which overwriting would delete",
            "move that away, or choose another folder",
        )


def _create_parents(folder: Path) -> list[Path]:
    """Create what is missing; returns it, innermost first, to be taken back after a failure."""
    missing = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return missing


def _flush(folder: Path) -> None:
    """Have every file of a folder, and the folder, on the disk before it gets its name."""
    for entry in (*sorted(folder.iterdir()), folder):
        _sync(entry)


def _sync(path: Path) -> None:
    if path.is_dir() and os.name == "nt":  # Windows has no handle of a folder to flush
        return
    handle = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _put_in_place(draft: Path, target: Path, shown: object, overwrite: bool) -> None:
    _refuse_existing(target, shown, overwrite)  # somebody may have been faster
    if not target.exists():
        os.rename(draft, target)
    elif not _exchange(draft, target):
        put_aside(target, draft)
    _sync(target.parent)


def _exchange(first: Path, second: Path) -> bool:
    """Let two folders change names in one step; False where the system has no such step."""
    here, exchange = -100, 2  # AT_FDCWD; RENAME_EXCHANGE of Linux, RENAME_SWAP of macOS
    libc = ctypes.CDLL(None, use_errno=True) if os.name == "posix" else None
    names = os.fsencode(first), os.fsencode(second)
    if sys.platform.startswith("linux") and hasattr(libc, "renameat2"):
        return libc.renameat2(here, names[0], here, names[1], exchange) == 0
    if sys.platform == "darwin" and hasattr(libc, "renamex_np"):
        return libc.renamex_np(*names, exchange) == 0
    return False
