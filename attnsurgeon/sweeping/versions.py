"""The function that trains -> whether it was edited since trials of the same sweep ended.

What is compared is the function, the plain values that are bound to it, and whatever it reaches by
name in its own file, without comments and layout; what it imports is not looked at. Beside the
variants, in `sweeps.json`, stands of every sweep what its function was, and how many trials ended
under it.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import inspect
import json
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from attnsurgeon.errors import UsageError
from attnsurgeon.saved.file import write_file
from attnsurgeon.sweeping.engine import Job, Trial

ADDRESS = "://"  # in a storage that is no folder
SWEEPS = "sweeps.json"


def digest_of(train: Any) -> str | None:
    """Return what tells one version of a function from another; None where its text is not known.

    Args:
        train: a function, a partial one, or an object that is called.
    """
    bound: list[str] = []
    while isinstance(train, functools.partial):
        bound += [*_plain(dict(enumerate(train.args))), *_plain(train.keywords)]
        train = train.func
    train = inspect.unwrap(train)
    named = inspect.isroutine(train) or inspect.isclass(train)
    if not named:
        bound += _plain(getattr(train, "__dict__", {}))
    try:
        text = textwrap.dedent(inspect.getsource(train if named else type(train)))
        own = ast.parse(text)
    except (OSError, TypeError):  # typed in, or compiled
        return None
    except SyntaxError:  # part of a larger expression: a lambda
        return _hashed([text, *bound])
    text = [ast.unparse(node) for node in (own, *_reached(own, _file_of(train)))]
    return _hashed([*text, *bound])


def refuse_edited(job: Job, digest: str | None, edited: bool) -> None:
    """Refuse to go on with a function that is not what it was when trials ended.

    Raises:
        UsageError: it was edited, and `edited` does not say that this is meant.
    """
    known = _read(job.folder).get(_key(job))
    begun = ADDRESS in job.storage or (Path(job.storage) / job.name).exists()
    if edited or known is None or not begun or digest is None or known["ended"] == 0:
        return
    if known["function"] not in (None, digest):
        count = "trials" if known["ended"] is None else f"{known['ended']} trials"
        raise UsageError(
            f"the function was edited since {count} of this sweep ended, which would stay as they"
            " are",
            "edited=True goes on all the same; another storage= trains all of it anew",
            command="--edited goes on all the same; another --storage trains all of it anew",
        )


def note_version(job: Job, digest: str | None, trials: Sequence[Trial] | None = None) -> None:
    """Write down what the function is, and how many trials ended under it; None: not known yet."""
    ended = None if trials is None else sum(trial.done for trial in trials)
    known = {**_read(job.folder), _key(job): {"function": digest, "ended": ended}}
    text = json.dumps(known, indent=2, sort_keys=True) + "\n"
    write_file(job.folder / SWEEPS, text, overwrite=True)


def _plain(values: Mapping[Any, Any]) -> list[str]:
    """Values by their names, of those whose text says all of them, in any process."""
    plain = (bool, int, float, str, bytes, type(None))
    return [
        f"{name}={value!r}"
        for name, value in values.items()
        if isinstance(value, plain)
        or (isinstance(value, (tuple, list)) and all(isinstance(v, plain) for v in value))
    ]


def _reached(own: ast.AST, home: ast.Module | None) -> Iterator[ast.stmt]:
    """The statements of a file that define what a function uses, and what these use."""
    seen, open_names = set(), _names(own)
    statements = home.body if home is not None else []
    defined = [(statement, _defines(statement)) for statement in statements]
    while open_names - seen:
        fresh = open_names - seen
        seen |= fresh
        for statement, names in defined:
            if names & fresh:
                open_names |= _names(statement)
    yield from (statement for statement, names in defined if names & seen)


def _defines(statement: ast.stmt) -> set[str]:
    if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return {statement.name}
    stored = (n for n in ast.walk(statement) if isinstance(n, (ast.Name, ast.alias)))
    return {
        (node.asname or node.name).partition(".")[0] if isinstance(node, ast.alias) else node.id
        for node in stored
        if isinstance(node, ast.alias) or isinstance(node.ctx, ast.Store)
    }


def _names(node: ast.AST) -> set[str]:
    return {inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name)}


def _file_of(train: Any) -> ast.Module | None:
    module = sys.modules.get(getattr(train, "__module__", None) or "")
    try:
        return ast.parse(inspect.getsource(module)) if module is not None else None
    except (OSError, TypeError, SyntaxError):
        return None


def _hashed(parts: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _key(job: Job) -> str:
    return f"{job.storage.rstrip('/')}/{job.name}"


def _read(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / SWEEPS).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # none yet, or torn: then nothing is known
        return {}
    entries = found.items() if isinstance(found, dict) else ()
    return {
        key: entry
        for key, entry in entries
        if isinstance(entry, dict)
        and isinstance(entry.get("function"), (str, type(None)))
        and isinstance(entry.get("ended", 0), (int, type(None)))
        and entry.keys() >= {"function", "ended"}
    }
