"""Something to write -> a file that is there whole or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from attnsurgeon.errors import UsageError
from attnsurgeon.saved.drafts import draft_beside, named, refusing


def check_file(path: str | os.PathLike[str], overwrite: bool, *, option: str = "-o FILE") -> Path:
    """Refuses, before any work, a file that could not be written.

    Args:
        path: of the file.
        overwrite: whether a file that is there may be replaced. Of a link the link is replaced,
            never what it leads to.
        option: by which the file was named, for the hints.

    Raises:
        UsageError: saying why, and what to do.
    """
    file = named(path, option=option)
    with refusing(path):
        if file.is_dir():
            raise UsageError(f"{path} is a folder", "name a file", command=f"name a file: {option}")
        if os.path.lexists(file) and not (file.is_file() or file.is_symlink()):
            raise UsageError(
                f"{path} is a device or a pipe", "name a file", command=f"name a file: {option}"
            )
        if os.path.lexists(file) and not overwrite:
            raise UsageError(
                f"{path} exists", "choose another name, or allow to replace it: overwrite=True"
            )
        if not file.parent.is_dir() or not os.access(file.parent, os.W_OK | os.X_OK):
            raise UsageError(
                f"cannot write {path}", "choose a folder that exists, where you may write"
            )
    return file


@contextlib.contextmanager
def new_file(
    path: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    suffix: str = "",
    option: str = "-o FILE",
) -> Iterator[Path]:
    """Gives the name of a draft to write; when the block ends it becomes the file `path`.

    When the block raises, or the disk is full, nothing has changed.

    Args:
        path, overwrite, option: as for `check_file`.
        suffix: of the draft's name.

    Raises:
        UsageError: it cannot be written.
    """
    file = check_file(path, overwrite, option=option)
    with refusing(path), draft_beside(file) as folder:
        draft = folder / f"draft{suffix}"
        yield draft
        _flush(draft)
        check_file(path, overwrite, option=option)  # somebody may have been faster
        os.replace(draft, file)


def write_file(
    path: str | os.PathLike[str],
    content: str | bytes,
    *,
    overwrite: bool = False,
    option: str = "-o FILE",
) -> Path:
    """Writes text, or bytes, to a new file, as `new_file` does; returns its path.

    Raises:
        UsageError: it cannot be written.
    """
    with new_file(path, overwrite=overwrite, option=option) as draft:
        draft.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
    return Path(path)


def _flush(file: Path) -> None:
    with file.open("rb+") as stream:
        os.fsync(stream.fileno())
