"""`my_train.py:run`, or a function -> one that takes a folder, a report and the settings."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable
from typing import Any

from attnsurgeon.errors import ModelError, UsageError
from attnsurgeon.models.user_code import find_code

Train = Callable[..., Any]
OWN = ("folder", "report", "variant")  # what is handed over beside the settings, and its key
FORM = "def run(folder, report, **config)"


def find_train(train: str | Train, config: Iterable[str]) -> Train:
    """Return the function that trains one variant.

    Args:
        train: the function, or `path/file.py:NAME` or `package.module:NAME`, which is imported.
        config: names of the settings that it will be given.

    Raises:
        UsageError: it does not exist, is no function, or does not take what it will be given.
    """
    found: Any = train
    if isinstance(train, str):
        try:
            found, _ = find_code(train, "the function that trains")
        except ModelError as error:
            raise UsageError(error.what, error.hint) from error
    if not callable(found) or inspect.isclass(found):
        raise UsageError(
            f"{train if isinstance(train, str) else repr(train)} is of type"
            f" {type(found).__name__}, not a function",
            f"name a function: {FORM}",
        )
    _refuse_unfitting(found, name_of(train), list(config))
    return found


def name_of(train: str | Train) -> str:
    """Return a function as messages and journals have it: `my_train.py:run`."""
    if isinstance(train, str):
        return train
    home = getattr(train, "__module__", None) or type(train).__module__
    return f"{home}:{getattr(train, '__qualname__', type(train).__name__)}"


def by_value(train: Train) -> Any:
    """Return the module that other processes cannot import, so that it has to travel with them."""
    module = sys.modules.get(getattr(train, "__module__", None) or "")
    file = getattr(module, "__file__", None)
    return module if module is not None and file and _is_of_a_file(module.__name__) else None


def _is_of_a_file(module: str) -> bool:
    return module.startswith("attnsurgeon_file_")  # so `models.imports` calls what it makes


def _refuse_unfitting(train: Train, name: str, config: list[str]) -> None:
    if clash := [key for key in config if key in OWN]:
        raise UsageError(
            f"{clash[0]!r} is what every variant is told, no setting", "rename the setting"
        )
    try:
        inspect.signature(train).bind("folder", print, **dict.fromkeys(config))
    except TypeError as error:
        raise UsageError(
            f"{name} cannot be called with (folder, report{''.join(f', {k}=' for k in config)}):"
            f" {error}",
            f"write {FORM}",
        ) from error
    except ValueError:  # no signature to be read: it will be seen
        return
