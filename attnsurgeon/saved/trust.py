"""A spec that a saved folder names -> may it be called?

A folder may come from anywhere, and a spec names something to import and call: `subprocess:call`
is a spec, too, and so is `own.py:torch.load`. No list of dangerous functions is complete, so the
rule is about whose code it is: names of timm, torchvision, ultralytics and the hub are no code; a
class of networks may be built, and a function of your own code may be called; nothing else. The
description of a YOLO is code, too: ultralytics evaluates what it says of activations.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import os
import site
import sys
import sysconfig
from collections.abc import Iterator
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from torch import nn

from attnsurgeon.errors import ModelError
from attnsurgeon.models.foreign import guarded, quote
from attnsurgeon.models.imports import import_file, import_name

GIVE_THE_BASE = "build the base network yourself and pass it: attnsurgeon.load(path, model=base)"
_NAMES = ("timm", "torchvision", "hf-hub", "hf_hub", "ultralytics", "transformers")
_NEVER = {*sys.stdlib_module_names, "attnsurgeon"}


def refuse_foreign_code(spec: str, folder: Path) -> None:
    """Refuse a spec that is neither a network's name, nor a class of networks, nor your own code.

    Raises:
        ModelError: saying why it is refused, or that the code cannot be imported.
    """
    family, colon, name = spec.partition(":")
    if not colon or (family in _NAMES and not _is_description_in(name, folder)):
        return
    left, _, factory = spec.rpartition(":")
    file = Path(left).expanduser() if left.endswith(".py") else None
    home = file.resolve() if file is not None else _home(left)
    why = None
    if family in _NAMES or (home is not None and home.is_relative_to(folder.resolve())):
        why = "that code came with the folder"
    elif file is None and left.partition(".")[0] in _NEVER:
        why = "that is no network"
    elif file is not None and _is_installed(home):
        why = "that file belongs to Python or to an installed package"
    elif (found := _factory(file, left, factory)) is not None and not _may_be_called(found, folder):
        why = "that is neither a class of networks nor a function of your own code"
    if why is not None:
        raise ModelError(
            f"{folder} says that its base network is built by {spec}; {why}", GIVE_THE_BASE
        )


def _is_description_in(name: str, folder: Path) -> bool:
    file = Path(name).expanduser()
    return file.suffix in (".yaml", ".yml") and file.resolve().is_relative_to(folder.resolve())


def _home(module: str) -> Path | None:
    """Where a module's outermost package is, without importing anything."""
    found = PathFinder.find_spec(module.partition(".")[0], [os.fspath(Path.cwd()), *sys.path])
    places = [found.origin, *(found.submodule_search_locations or [])] if found else []
    return next((Path(place).resolve() for place in places if place), None)


def _is_installed(place: Path | None) -> bool:
    """Whether a file or folder is among those of Python itself and of installed packages."""
    paths = sysconfig.get_paths()
    roots = [paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    roots += [*site.getsitepackages(), site.getusersitepackages()]
    return place is not None and any(place.is_relative_to(Path(r).resolve()) for r in roots)


def _factory(file: Path | None, module: str, factory: str) -> Any:
    """Import what a spec names; None where there is nothing, which `load_model` will say."""
    if file is not None and not file.is_file():
        return None
    with _on_path(Path.cwd() if file is None else file.resolve().parent):
        found: Any = guarded(
            lambda: import_name(module) if file is None else import_file(file.resolve()),
            lambda error: ModelError(f"{module} cannot be imported: {quote(error)}", GIVE_THE_BASE),
        )
    for name in factory.split("."):
        found = getattr(found, name, None)
    return found


@contextlib.contextmanager
def _on_path(folder: Path) -> Iterator[None]:
    entry = os.fspath(folder)
    sys.path.insert(0, entry)
    try:
        yield
    finally:
        if entry in sys.path:
            sys.path.remove(entry)


def _may_be_called(found: Any, folder: Path) -> bool:
    while isinstance(found, functools.partial):
        found = found.func
    if isinstance(found, nn.Module) or (isinstance(found, type) and issubclass(found, nn.Module)):
        return True
    function = inspect.unwrap(getattr(found, "__func__", found))
    code = getattr(function, "__code__", None)
    if code is None:
        return False
    file = Path(code.co_filename).resolve()
    ours = Path(__file__).resolve().parents[1]  # an editable installation is nobody's own code
    foreign = any(file.is_relative_to(place) for place in (folder.resolve(), ours))
    return not foreign and not _is_installed(file)
