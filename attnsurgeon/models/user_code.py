"""`path/file.py:factory` or `package.module:factory` -> the network that the user's code builds."""

from __future__ import annotations

import ast
import copy
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from attnsurgeon.errors import ModelError, nearest
from attnsurgeon.models.foreign import explain_call, guarded, parameters, quote
from attnsurgeon.models.imports import import_file, import_name
from attnsurgeon.models.recipes import Recipe
from attnsurgeon.models.smp_names import SMP
from attnsurgeon.models.suggestions import nearest_file

NETWORK = "a network"


def file_recipe(path: str, factory: str) -> Recipe:
    """Return how to build what `factory` of a Python file makes; the file is executed.

    Raises:
        ModelError: there is no such file or factory, or the file raises.
    """
    module, file = _imported_file(path)
    return _recipe(module, factory, spec=f"{path}:{factory}", file=file, folder=file.parent)


def _imported_file(path: str) -> tuple[ModuleType, Path]:
    file = Path(os.path.expanduser(path))
    if not file.is_file():
        raise ModelError(f"there is no file {path}", nearest_file(file))
    file = file.resolve()
    with _on_path(file.parent):
        return guarded(lambda: import_file(file), partial(_explain_import, path, file)), file


def module_recipe(name: str, factory: str) -> Recipe:
    """Return how to build what `factory` of an importable module makes.

    The working folder is importable too, as it is for `python -m`.

    Raises:
        ModelError: there is no such module or factory, or importing it raises.
    """
    # The working folder may not stand in for a library that folders and rules name, too.
    folder = None if name.partition(".")[0] == SMP else Path.cwd()
    module, file = _imported_module(name, folder)
    return _recipe(module, factory, spec=f"{name}:{factory}", file=file, folder=folder)


def _imported_module(name: str, folder: Path | None) -> tuple[ModuleType, Path | None]:
    with _on_path(folder):
        module = import_name(name)
    origin = getattr(module, "__file__", None)  # None of a namespace package
    return module, Path(origin) if origin else None


def find_code(spec: str, noun: str) -> tuple[Any, Path | None]:
    """Return what `path/file.py:NAME` or `package.module:NAME` names, and the file it stands in.

    Args:
        spec: is imported, so it is executed.
        noun: what the name should stand for, such as "a network", for errors.

    Raises:
        ModelError: there is no such file, module or name, or importing it raises.
    """
    left, colon, name = spec.rpartition(":")
    if spec.endswith(".py") or (left.endswith(".py") and not name):
        raise missing_factory(spec.removesuffix(":"), noun)
    if not colon or not left or not name:
        raise ModelError(f"{spec!r} is not 'path/file.py:NAME' or 'package.module:NAME'")
    module, file = _imported_file(left) if left.endswith(".py") else _imported_module(
        left, Path.cwd()
    )  # fmt: skip
    return _attribute(module, name, spec, noun), file


def missing_factory(path: str, noun: str = NETWORK) -> ModelError:
    """Return the error for a file named without a factory; the file is read, not executed."""
    file = Path(os.path.expanduser(path))
    if not file.is_file():
        return ModelError(f"there is no file {path}", nearest_file(file))
    try:
        body = ast.parse(file.read_bytes()).body
    except (SyntaxError, ValueError):
        body = []
    kinds = (ast.FunctionDef, ast.ClassDef)
    names = [n.name for n in body if isinstance(n, kinds) and not n.name.startswith("_")]
    example = names[-1] if names else "factory"
    hint = f"write {path}:{example}" + (f"; it defines {', '.join(names)}" if names else "")
    which = "factories builds the network" if noun == NETWORK else f"names is {noun}"
    return ModelError(f"{path} is a file; which of its {which}?", hint)


def _recipe(
    module: ModuleType, factory: str, *, spec: str, file: Path | None, folder: Path | None
) -> Recipe:
    made = _attribute(module, factory, spec)
    if not callable(made):
        raise ModelError(
            f"{spec} is of type {type(made).__name__}, not a factory of networks",
            "name a function that returns an nn.Module, an nn.Module class, or a built network",
        )
    build = partial(_build, made, spec=spec, file=file, folder=folder)
    return Recipe(build, weights="as built", own=True)


def _attribute(module: ModuleType, dotted: str, spec: str, noun: str = NETWORK) -> Any:
    found: Any = module
    for name in dotted.split("."):
        if not hasattr(found, name):
            offers = [n for n, value in vars(found).items() if _builds(n, value)]
            hint = nearest(name, offers) if offers else f"it defines nothing that builds {noun}"
            raise ModelError(f"{spec.rpartition(':')[0]} has no {dotted!r}", hint)
        found = getattr(found, name)
    return found


def _builds(name: str, value: Any) -> bool:
    return callable(value) and not name.startswith("_") and value is not nn.Module


def _build(
    factory: Callable[..., Any],
    pretrained: bool,
    model_args: Mapping[str, Any],
    *,
    spec: str,
    file: Path | None,
    folder: Path | None,
) -> nn.Module:
    if isinstance(factory, nn.Module):
        given = {n: v for n, v in model_args.items() if n != "pretrained" or v}
        return _copy_of_instance(factory, pretrained, given, spec)
    given = _arguments(factory, pretrained, model_args, spec)
    explain = partial(explain_call, what=spec, factory=factory, given=given, file=file)
    with _on_path(folder):  # a factory may import its neighbours only now
        model = guarded(lambda: factory(**given), explain)
    if not isinstance(model, nn.Module):
        raise ModelError(
            f"{spec} returned a value of type {type(model).__name__}, not an nn.Module",
            "return the network itself from the factory",
        )
    return model


def _arguments(
    factory: Callable[..., Any], pretrained: bool, model_args: Mapping[str, Any], spec: str
) -> dict[str, Any]:
    """What a factory is called with: what the user gave. `pretrained=False` asks for nothing."""
    given = dict(model_args)
    accepted = parameters(factory)
    if spec.partition(":")[0].partition(".")[0] == SMP:  # known by name: nothing comes unasked
        if not pretrained:
            _refuse_weights(given, spec)
            given["encoder_weights"] = None
        return given
    anything = any(p.kind is p.VAR_KEYWORD for p in accepted.values())
    if "pretrained" in accepted or (anything and not pretrained):
        return {**given, "pretrained": True} if pretrained else given
    if pretrained or given.get("pretrained"):
        raise ModelError(
            f"{spec} has no argument 'pretrained'",
            "give the weights as checkpoint=, or add the argument to the factory",
        )
    return {name: value for name, value in given.items() if name != "pretrained"}


def _refuse_weights(given: Mapping[str, Any], spec: str) -> None:
    if given.get("encoder_weights") is not None:
        raise ModelError(
            f"encoder_weights of {spec} would be downloaded",
            "say pretrained=True as well: nothing is downloaded without it",
        )


def _copy_of_instance(
    network: nn.Module, pretrained: bool, model_args: Mapping[str, Any], spec: str
) -> nn.Module:
    """A network at module level is shared by all who import it, so surgery gets a copy."""
    if pretrained or model_args:
        raise ModelError(
            f"{spec} is a network already built, so it takes no arguments",
            "name a function or class that builds it",
        )
    return guarded(
        lambda: copy.deepcopy(network),
        lambda error: ModelError(
            f"{spec} cannot be copied: {quote(error)}", "name a function or class that builds it"
        ),
    )


def _explain_import(path: str, file: Path, error: BaseException) -> ModelError:
    hint = None
    if isinstance(error, ImportError) and "relative import" in str(error):
        hint = "a file of a package is named as 'package.module:factory'"
    elif isinstance(error, ModuleNotFoundError):
        hint = f"install {error.name}, or run where it can be imported"
    return ModelError(f"{path} cannot be imported: {quote(error, file)}", hint)


@contextmanager
def _on_path(folder: Path | None) -> Iterator[None]:
    """Let the user's code import its neighbours, as it can when Python runs it."""
    if folder is None:
        yield
        return
    entry = os.fspath(folder)
    sys.path.insert(0, entry)
    try:
        yield
    finally:
        if entry in sys.path:  # the user's code may have rearranged it
            sys.path.remove(entry)
