"""A file or a dotted name of the user -> the imported module."""

from __future__ import annotations

import hashlib
import importlib
import importlib.machinery
import importlib.util
import pkgutil
import re
import sys
from pathlib import Path
from types import ModuleType

from attnsurgeon.errors import ModelError, nearest
from attnsurgeon.models.foreign import guarded, quote
from attnsurgeon.models.suggestions import close_to

FORMS = (
    "a network is named as 'resnet50' (timm), 'timm:NAME', 'torchvision:NAME', 'hf-hub:ORG/NAME',"
    " 'ultralytics:NAME', 'transformers:ORG/NAME', 'path/file.py:factory' or"
    " 'package.module:factory'"
)
_FAMILIES = ("timm", "torchvision", "hf-hub", "ultralytics", "transformers")
_VERSION = "__attnsurgeon_file_version__"


def import_file(file: Path) -> ModuleType:
    """Execute a Python file as a module; again only when it has changed.

    Its name follows from its path and stays in `sys.modules`, so that its classes can be pickled
    and are the same classes for every network built from it. A file that the running program has
    imported itself, or is (`__main__`), is taken as it is: executing a training script a second
    time would start it again.

    Args:
        file: an absolute path to an existing file.
    """
    name = _module_name(file)
    for other, module in list(sys.modules.items()):
        if other != name and getattr(module, "__dict__", {}).get("__file__") == str(file):
            return module
    status = file.stat()
    version = (status.st_mtime_ns, status.st_size)
    before = sys.modules.get(name)
    if before is not None and getattr(before, _VERSION, None) == version:
        return before
    return _execute(file, name, version)


def _module_name(file: Path) -> str:
    digest = hashlib.sha256(str(file).encode()).hexdigest()[:8]
    return f"attnsurgeon_file_{re.sub(r'[^0-9a-zA-Z]', '_', file.stem)}_{digest}"


def _execute(file: Path, name: str, version: tuple[int, int]) -> ModuleType:
    loader = importlib.machinery.SourceFileLoader(name, str(file))
    spec = importlib.util.spec_from_file_location(name, file, loader=loader)
    assert spec is not None, "a loader was given, so a spec is always made"
    module = importlib.util.module_from_spec(spec)
    setattr(module, _VERSION, version)
    before = sys.modules.get(name)
    sys.modules[name] = module
    try:
        # Compiled here, not by the loader: its cache tells two edits of one second apart by
        # their size alone.
        exec(loader.source_to_code(file.read_bytes(), str(file)), vars(module))
    except BaseException:
        del sys.modules[name]
        if before is not None:
            sys.modules[name] = before
        raise
    return module


def import_name(name: str) -> ModuleType:
    """Import a module by its dotted name.

    Raises:
        ModelError: it does not exist (with the nearest that does), or raises while importing.
    """
    if not all(part.isidentifier() for part in name.split(".")):
        hint = f"did you mean {f'{name}.py'!r}?" if Path(f"{name}.py").is_file() else None
        hint = hint or close_to(name, _FAMILIES, FORMS)
        raise ModelError(f"{name!r} is not the name of a module", hint)
    return guarded(lambda: importlib.import_module(name), lambda error: _explain(error, name))


def _explain(error: BaseException, name: str) -> ModelError:
    itself = isinstance(error, ModuleNotFoundError) and (
        error.name == name or name.startswith(f"{error.name}.")
    )
    if not itself:
        return ModelError(f"module {name} cannot be imported: {quote(error)}")
    return ModelError(f"there is no module {name}", _nearest_module(name))


def _nearest_module(name: str) -> str:
    parent, _, last = name.rpartition(".")
    if parent and parent in sys.modules:
        folder = getattr(sys.modules[parent], "__path__", None)
        if folder is None:
            return f"{parent} is a module, not a package"
        return nearest(last, [module.name for module in pkgutil.iter_modules(folder)])
    top = name.partition(".")[0]
    return close_to(top, {*_FAMILIES, *(found.name for found in pkgutil.iter_modules())}, FORMS)
