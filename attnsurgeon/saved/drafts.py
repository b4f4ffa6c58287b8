"""A name to write under -> a draft beside it, which is gone afterwards, whatever happens.

A draft is a hidden folder on the same file system, so that what is ready moves to its name in one
step. The process that writes holds a lock on it, which the system lets go when the process ends in
whatever way; who writes beside it next removes the drafts that nobody holds. A process number would
say less: it is given to another process soon, and means nothing to another host.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import socket
import uuid
from collections.abc import Iterator
from pathlib import Path

from attnsurgeon.errors import UsageError

try:
    import fcntl
except ImportError:  # Windows: its drafts stay until somebody removes them
    fcntl = None

_NAME = re.compile(r"\.attnsurgeon-([0-9a-f]{8})-[0-9a-f]{12}")
_CALL = "give it a name that a file can have"
_ELSEWHERE = "choose a place where you may write"


def named(path: str | os.PathLike[str], *, option: str) -> Path:
    """Return a path that can be written down; refuse a name that is none.

    Args:
        path: as the user gave it.
        option: by which, for the hint: "-o DIR".

    Raises:
        UsageError: saying why.
    """
    if not os.fspath(path):
        raise UsageError("the name of the output is empty", _CALL, command=f"name it: {option}")
    try:
        os.fspath(path).encode("utf-8")
        if "\0" in os.fspath(path):
            raise ValueError("it has a null byte")
        return Path(path).expanduser()
    except UnicodeError:
        raise UsageError(
            f"{str(path)!r} is not UTF-8", _CALL, command=f"choose another name: {option}"
        ) from None
    except (ValueError, RuntimeError) as error:  # RuntimeError: an unknown ~user
        why = str(error).rstrip(".")
        raise UsageError(
            f"{str(path)!r} is not a path: {why}", _CALL, command=f"name it: {option}"
        ) from error


@contextlib.contextmanager
def refusing(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn what the file system says into a UsageError."""
    try:
        yield
    except OSError as error:
        why = error.strerror or str(error)
        raise UsageError(f"cannot write {path}: {why}", _hint(error)) from error


def _hint(error: OSError) -> str:
    if any(word in str(error).lower() for word in ("space", "quota", "too large")):
        return "free some space, or choose a place on another disk"
    return _ELSEWHERE


@contextlib.contextmanager
def draft_beside(target: Path) -> Iterator[Path]:
    """Give an empty folder beside a file or folder; it is removed with what is left in it.

    Drafts that processes of this user on this host have left there are removed first: the room
    they take may be what is missing.

    Raises:
        OSError: the folder cannot be made.
    """
    remove_left(target.parent)
    draft, lock = _claimed(target.parent)
    try:
        yield draft
    finally:
        shutil.rmtree(draft, ignore_errors=True)
        _release(lock)


def put_aside(target: Path, successor: Path) -> None:
    """Let one folder take another's name in two steps, where the system has no single one.

    Meanwhile the old one lies in a draft, under its own name: should the process end between the
    two, `remove_left` puts it back.
    """
    aside, lock = _claimed(target.parent)
    try:
        os.rename(target, aside / target.name)
        try:
            os.rename(successor, target)
        except BaseException:
            os.rename(aside / target.name, target)
            raise
    finally:
        if target.exists():  # else the old folder, which could not be put back, is kept there
            shutil.rmtree(aside, ignore_errors=True)
        _release(lock)


def remove_left(folder: Path) -> None:
    """Remove the drafts in a folder whose processes are gone; what cannot be removed stays."""
    with contextlib.suppress(OSError):
        for entry in list(folder.iterdir()):
            found = _NAME.fullmatch(entry.name)
            if found is not None and found[1] == _host():
                with contextlib.suppress(OSError):
                    _remove_if_left(entry)


def _remove_if_left(draft: Path) -> None:
    lock = _lock(draft)
    if lock is None:  # this system has no locks that say whether somebody is at work
        return
    try:
        for kept in draft.iterdir():
            if kept.is_dir() and not (draft.parent / kept.name).exists():
                os.rename(kept, draft.parent / kept.name)
        shutil.rmtree(draft, ignore_errors=True)
    finally:
        _release(lock)


def _claimed(folder: Path) -> tuple[Path, int | None]:
    """Create an empty folder with a hidden and short name, and hold it while this process lives."""
    while True:
        draft = folder / f".attnsurgeon-{_host()}-{uuid.uuid4().hex[:12]}"
        draft.mkdir()
        try:
            return draft, _lock(draft)
        except (BlockingIOError, FileNotFoundError):
            continue  # somebody who cleans up was faster than the lock, and removes it


def _lock(draft: Path) -> int | None:
    """Take the lock of a draft; None where the file system has none.

    Raises:
        BlockingIOError: a living process has it.
        FileNotFoundError: the draft is gone.
        OSError: it is somebody else's, or no folder.
    """
    if fcntl is None:
        return None
    handle = os.open(draft, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        opened = os.fstat(handle)
        if opened.st_uid != os.geteuid():
            raise PermissionError(f"{draft} is another user's")
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise
        except OSError:  # a file system without locks, or without locks on folders (NFS)
            os.close(handle)
            return None
        if os.lstat(draft).st_ino != opened.st_ino:
            raise FileNotFoundError(f"{draft} is another one by now")
        return handle
    except BaseException:
        with contextlib.suppress(OSError):
            os.close(handle)
        raise


def _release(lock: int | None) -> None:
    if lock is not None:
        os.close(lock)


def _host() -> str:
    """This host in eight letters: on a disk of several hosts a lock may be seen by one alone."""
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]
