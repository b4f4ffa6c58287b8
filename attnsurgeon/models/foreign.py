"""An exception of somebody else's code -> one ModelError that quotes it and says where."""

from __future__ import annotations

import inspect
import os
import re
import sys
import traceback
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, TypeVar

from attnsurgeon.errors import ModelError, SurgeonError, nearest

T = TypeVar("T")

_UNEXPECTED = re.compile(r"(?:(\w+)\.__init__\(\) )?got an unexpected keyword argument '(\w+)'")
_MISSING = re.compile(r"missing \d+ required (?:positional|keyword-only) arguments?: (.+)")


def guarded(call: Callable[[], T], explain: Callable[[BaseException], SurgeonError]) -> T:
    """Return `call()`; whatever it raises becomes `explain(error)`.

    Constructors of networks, unpicklers and downloads are foreign code: no list of exceptions is
    complete for them, and nothing is swallowed here. The one broad `except` of the package.
    """
    try:
        return call()
    except SurgeonError:
        raise
    except (Exception, SystemExit) as error:
        raise explain(error) from error


def quote(error: BaseException, file: Path | None = None) -> str:
    """Return `TypeError: its first line (net.py:12)`, preferring a line of `file`."""
    place = _place(error, file)
    return first_line(error) + (f" ({place})" if place else "")


def first_line(error: BaseException) -> str:
    """Return `TypeError: its first line`."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}{': ' + lines[0].strip() if lines else ''}"


def explain_call(
    error: BaseException,
    *,
    what: str,
    factory: Callable[..., Any] | None,
    given: Collection[str],
    file: Path | None = None,
) -> ModelError:
    """Say why `factory(**given)` failed: a wrong argument by its name, all else quoted.

    Args:
        error: what it raised.
        what: the network's name in the message.
        factory: the callable; its signature and its module tell the nearest argument. None
            where it is not known.
        given: the names of the user's arguments.
        file: the user's file, whose line is the interesting one.
    """
    if isinstance(error, TypeError):
        unexpected = _UNEXPECTED.search(str(error))
        if unexpected and unexpected[2] in given:
            accepted = _accepted(factory, unexpected[1])
            hint = nearest(unexpected[2], accepted) if accepted else "leave it out"
            return ModelError(f"{what} takes no argument {unexpected[2]!r}", hint)
        missing = _MISSING.search(str(error))
        if missing and not _place(error, file):  # our own call lacks it, not one inside
            names = re.findall(r"'(\w+)'", missing[1])
            return ModelError(
                f"{what} needs {' and '.join(names)}",
                f"pass model arguments: load_model(..., {', '.join(f'{n}=...' for n in names)})",
                command=f"pass {' '.join(f'--model-arg {n}=...' for n in names)}",
            )
    return ModelError(f"{what} cannot be built: {quote(error, file)}")


def _accepted(factory: Callable[..., Any] | None, class_name: str | None) -> list[str]:
    """Names the parameters of the factory and of the class that refused the argument."""
    home = sys.modules.get(getattr(factory, "__module__", ""))
    refused = getattr(home, class_name, None) if class_name else None
    names: set[str] = set()
    for function in filter(callable, (factory, refused)):
        names |= {n for n, p in parameters(function).items() if p.kind is not p.VAR_KEYWORD}
    return sorted(names - {"self", "weights", "pretrained", "progress"})


def parameters(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """Return the parameters of a callable; none where it has no readable signature."""
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError):
        return {}


def _place(error: BaseException, file: Path | None) -> str:
    if isinstance(error, SyntaxError) and error.filename:
        return f"{_shown(error.filename)}:{error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    inside = [frame for frame in frames if file and frame.filename == str(file)]
    last = (inside or frames or [None])[-1]
    if last is None or Path(last.filename).parent == Path(__file__).parent:
        return ""
    return f"{_shown(last.filename)}:{last.lineno}"


def _shown(path: str) -> str:
    """A path as a user would type it: relative where it lies below the working folder."""
    relative = os.path.relpath(path)
    return path if relative.startswith(os.pardir) else relative
