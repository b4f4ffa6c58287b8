"""Attention that is code of the user's: its name <-> the code, and what a file may name of it.

The user names it themselves, on the command line or in Python, and it is imported. A rule file or
a saved folder that names it has to be trusted first: nothing that a file says is executed unasked.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias, cast

from torch import nn

from attnsurgeon.attention.own.card import Own, is_code, own_card
from attnsurgeon.attention.own.plugins import plugins
from attnsurgeon.attention.own.signature import parameters_of
from attnsurgeon.attention.registry import Mechanism, admit, lookup
from attnsurgeon.errors import MechanismError, ModelError
from attnsurgeon.models.plain_arguments import not_plain
from attnsurgeon.models.user_code import find_code
from attnsurgeon.models.vocabulary import code_place

Attention: TypeAlias = str | type[nn.Module] | Callable[..., Any]
_NOUN = "attention"
_FILE = "attnsurgeon_file_"  # so `models.imports` calls the modules that it makes of files


def find_attention(attn: Attention) -> tuple[str, dict[str, Any]]:
    """Return the name by which `lookup` finds a mechanism, and the arguments that come with it.

    Args:
        attn: the name of a mechanism of the catalogue or of an installed package, or the user's
            own: `path/file.py:NAME`, `package.module:NAME`, a class of modules, a function of the
            channels that returns a module, or a function of tensors. Code that is named is
            imported.

    Raises:
        MechanismError: there is none of that name, or it is nothing that can be inserted.
    """
    if isinstance(attn, str):
        return (named(attn) if is_code(attn) else lookup(attn)).name, {}
    thing, given = _without_partial(attn)
    name, file = _place_of(thing)
    sha256 = sha256_of(file) if file is not None else None
    return admit(own_card(name, thing, file=str(file or ""), sha256=sha256)).name, given


def named(spec: str) -> Own:
    """Import `path/file.py:NAME` or `package.module:NAME` and admit it as a mechanism.

    Raises:
        MechanismError: it does not exist, or is no attention.
    """
    try:
        thing, file = find_code(spec, _NOUN)
    except ModelError as error:
        raise MechanismError(error.what, error.hint) from error
    sha256 = None if file is None else sha256_of(file)
    card = own_card(spec, thing, file=str(file or ""), sha256=sha256)
    admit(card)
    return card


def known_as(name: str, attn: Attention) -> Mechanism:
    """Admit the user's own mechanism also under the name that a record has for it.

    Returns:
        The card, under its own name.
    """
    own = lookup(find_attention(attn)[0])
    admit(dataclasses.replace(cast(Own, own), name=name))
    return own


def objection(name: str, *args: Mapping[str, Any]) -> str | None:
    """Return why a file may not name a mechanism unasked, to go on after its name; None if it may.

    Nothing is imported to find out.

    Args:
        name: of the mechanism, as the file has it.
        args: its arguments, as the file has them; several, where it names it several times.
    """
    if is_code(name):
        place = code_place(name)
        return "that is code of its own" + (f", in {place}" if place else "")
    if name in plugins():
        given = ((n, value) for one in args for n, value in one.items())
        wrong = next((w for n, value in given if (w := not_plain(n, value))), None)
        return None if wrong is None else f"its argument {wrong}"
    return None


def _without_partial(attn: Any) -> tuple[Any, dict[str, Any]]:
    """Return what a `functools.partial` is of, and its arguments by name, to be written down."""
    given: dict[str, Any] = {}
    while isinstance(attn, functools.partial):
        names = list(parameters_of(attn.func))
        given = {**dict(zip(names, attn.args, strict=False)), **attn.keywords, **given}
        attn = attn.func
    return attn, given


def _place_of(thing: Any) -> tuple[str, Path | None]:
    """Return `module:NAME` or `file.py:NAME` of a class or function, and its file.

    Where it cannot be found by that name (a lambda, a class inside a function, one of a notebook)
    there is no file: it can be inserted, and has to be handed in again where it is loaded.
    """
    own_type: Any = type(thing) if not hasattr(thing, "__qualname__") else thing
    module, dotted = str(own_type.__module__), str(own_type.__qualname__)
    home = sys.modules.get(module)
    found: Any = home
    for part in dotted.split("."):
        found = getattr(found, part, None)
    origin = getattr(home, "__file__", None)
    if found is not thing or origin is None or not origin.endswith(".py"):
        return f"{module}:{dotted}", None
    file = Path(origin)
    if module == "__main__" or module.startswith(_FILE):
        relative = os.path.relpath(file)
        path = str(file) if relative.startswith(os.pardir) else relative
        return f"{path}:{dotted}", file
    return f"{module}:{dotted}", file


def code_file(name: str) -> Path | None:
    """Return the file of `path/file.py:NAME`, where it is there; nothing is imported."""
    left = name.rpartition(":")[0]
    file = Path(os.path.expanduser(left))
    return file if left.endswith(".py") and file.is_file() else None


def sha256_of(file: Path) -> str:
    """Return the sha256 of a file."""
    return hashlib.sha256(file.read_bytes()).hexdigest()
