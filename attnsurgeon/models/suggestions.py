"""A name that does not exist -> the nearest that does: networks, files, words."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

from attnsurgeon.errors import ModelError, nearest

Otherwise = TypeVar("Otherwise", str, None)


def close_to(word: str, known: Iterable[str], otherwise: Otherwise) -> str | Otherwise:
    """Return `did you mean 'x'?` where a known word is near; long lists are never printed."""
    hint = nearest(word, known)
    return hint if hint.startswith("did you mean") else otherwise


def nearest_file(path: Path) -> str | None:
    """Return a hint with the nearest names in the folder of a path that does not exist."""
    if not path.parent.is_dir():
        return f"there is no folder {path.parent} either"
    return close_to(path.name, [entry.name for entry in path.parent.iterdir()], None)


def names_of(family: str) -> list[str]:
    """Return every name of a network that `timm` or `torchvision` has."""
    if family == "torchvision":
        from torchvision.models import list_models
    else:
        from timm import list_models
    return list_models()


def unknown_network(name: str, family: str) -> ModelError:
    """Return the error for a name that `family` (`timm` or `torchvision`) does not know."""
    return ModelError(f"{family} has no network called {name!r}", _nearest_network(name, family))


def _nearest_network(name: str, family: str) -> str:
    # The family that was asked comes first where both have an equally near name.
    spellings: dict[str, list[str]] = {}
    both = {home: names_of(home) for home in ("timm", "torchvision")}
    for home in sorted(both, key=lambda home: home != family):
        prefix = "" if home == "timm" else "torchvision:"
        for known in both[home]:
            spellings.setdefault(known, []).append(prefix + known)
    close = difflib.get_close_matches(name.lower().partition(".")[0], spellings, n=3, cutoff=0.6)
    specs = [spec for known in close for spec in spellings[known]][:4]
    if specs:
        return f"did you mean {' or '.join(map(repr, specs))}?"
    return (
        f"timm.list_models() names {len(both['timm'])}; also 'torchvision:NAME',"
        " 'hf-hub:ORG/NAME', 'path/file.py:factory' and 'package.module:factory'"
    )
