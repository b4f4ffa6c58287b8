"""What a user names as a network -> how to look at it, and how to build it with weights."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from torch import nn

from attnsurgeon.errors import ModelError, UsageError
from attnsurgeon.models import Source, load_model, source_of
from attnsurgeon.models.suggestions import close_to, names_of
from attnsurgeon.recording.record import map_tensors
from attnsurgeon.recording.twin import handed_over
from attnsurgeon.saved.folder import RECORD
from attnsurgeon.saved.origin import measure
from attnsurgeon.saved.restore import load, outline, read_folder, without_weights
from attnsurgeon.sites.analysis import analyse, sketch
from attnsurgeon.sites.survey import Survey
from attnsurgeon.sizes import InputSize

MOST = 20  # networks that wildcards stand for, unless more are allowed
_WILD = frozenset("*?[")
_LOADING = ("checkpoint", "checkpoint_key", "partial", "weights_only", "accept")  # of a folder, too


@dataclass(frozen=True)
class Subject:
    """A network of a comparison.

    Attributes:
        name: what its rows call it.
        given: the spec, the path of a saved folder, or the network itself.
        args: of the network's factory.
        weights: how `load_model` is to load weights; empty for random ones.
        input_size, example: as for `analyse`.
        trust: whether a saved folder may name code.
    """

    name: str
    given: str | nn.Module
    args: Mapping[str, Any] = field(default_factory=dict)
    weights: Mapping[str, Any] = field(default_factory=dict)
    input_size: InputSize | None = None
    example: Any = None
    trust: bool = False

    @property
    def is_folder(self) -> bool:
        """Whether it is a network that was saved after surgery."""
        return isinstance(self.given, str) and os.path.isfile(os.path.join(self.given, RECORD))

    def look(self) -> tuple[nn.Module, Survey]:
        """Build it without weights, or where it looks at values with random ones, and find sites.

        Raises:
            ModelError: it is unknown, or cannot be built or run.
        """
        if isinstance(self.given, nn.Module):
            return self.given, analyse(self.given, self.input_size, self.example)
        if not self.is_folder:
            return sketch(self.given, self.input_size, self.example, **self.args)
        saved = read_folder(self.given)
        try:
            model = outline(saved, trust=self.trust)
            return model, analyse(model, self.input_size, self._example)
        except ModelError:
            model = without_weights(saved, trust=self.trust)
            return model, analyse(model, self.input_size, self._example)

    def load(self) -> nn.Module:
        """Build it with the weights that were asked for, of a folder with its own.

        Raises:
            ModelError, UsageError: as `load_model`, or `attnsurgeon.load`.
        """
        if isinstance(self.given, nn.Module):
            return handed_over(self.given)
        if not self.is_folder:
            return load_model(self.given, **self.weights, **self.args)
        how = {name: value for name, value in self.weights.items() if value}
        if foreign := [name for name in how if name not in _LOADING]:
            raise UsageError(
                f"{self.name} is a saved folder, with its weights", f"leave {foreign[0]}= out"
            )
        return load(self.given, trust=self.trust, **how)

    def survey_of(self, model: nn.Module) -> Survey:
        """Find the sites of what `load` gave."""
        return analyse(model, self.input_size, self._example)

    @property
    def _example(self) -> Any:
        """The input to look at it with: of a folder that of its last operation."""
        if self.is_folder and self.input_size is None and self.example is None:
            return read_folder(self.given).form  # pyright: ignore[reportArgumentType]
        return self.example

    def source(self, model: nn.Module) -> Source:
        """Return where it comes from, as it was asked for."""
        found = source_of(model) or Source(type(model).__name__, weights="unknown")
        empty = any(parameter.is_meta for parameter in model.parameters())
        weights = "none" if empty else found.weights
        if isinstance(self.given, nn.Module):
            return Source(found.spec, found.model_args, weights, found.stripped)
        return Source(self.given, dict(self.args), weights, found.stripped)

    def record(self) -> dict[str, Any]:
        """Return what tells it from another network, for a journal."""
        weights = {name: value for name, value in self.weights.items() if value}
        if checkpoint := weights.get("checkpoint"):
            weights["content"] = _content(Path(checkpoint).expanduser())
        shapes = map_tensors(self.example, lambda t: f"{t.dtype}{tuple(t.shape)}")
        return {
            "network": self._identity(),
            "args": dict(self.args),
            "weights": weights,
            "input": [self.input_size, repr(shapes)],
            "trust": self.trust,
        }

    def _identity(self) -> list[Any]:
        if isinstance(self.given, nn.Module):
            kind = type(self.given)
            return [f"{kind.__module__}.{kind.__qualname__}", measure(self.given).sha256]
        file = Path(self.given.rpartition(":")[0])
        if self.is_folder:
            return [self.given, _content(Path(self.given) / RECORD)]
        return [self.given, _content(file) if self.given.rpartition(":")[0] else None]


def _content(file: Path) -> list[Any] | str | None:
    """What tells whether a file or a folder is still the same; None where there is none."""
    if file.is_dir():
        inside = sorted(path for path in file.rglob("*") if path.is_file())
        return [[str(path.relative_to(file)), path.stat().st_size, path.stat().st_mtime_ns]
                for path in inside]  # fmt: skip
    if not file.is_file():
        return None
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while part := stream.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()


def named_networks(words: Iterable[str], most: int = MOST) -> list[str]:
    """Return the networks that words name: each once, wildcards as timm and torchvision list them.

    Args:
        words: specs and folders, or patterns of names: `resnet*d`, `timm:vit_*`,
            `torchvision:regnet_?`.
        most: how many wildcards may stand for together.

    Raises:
        ModelError: a pattern stands for nothing.
        UsageError: they stand for more.
    """
    names: dict[str, None] = {}
    wild: dict[str, int] = {}
    for word in words:
        if not _is_pattern(word):
            names[word] = None
            continue
        found = _matching(word)
        wild[word] = len(found)
        names.update(dict.fromkeys(found))
    if sum(wild.values()) > most:
        said = ", ".join(f"{pattern} stands for {number}" for pattern, number in wild.items())
        raise UsageError(
            f"{said} networks, and {most} are the most that wildcards may stand for here",
            f"narrow them, or allow more: max_networks={sum(wild.values())}",
        )
    return list(names)


def _is_pattern(word: str) -> bool:
    return bool(_WILD & set(word)) and not os.path.exists(word)


def _matching(pattern: str) -> list[str]:
    family, colon, glob = pattern.rpartition(":")
    if "/" in pattern or "\\" in pattern or family not in ("", "timm", "torchvision"):
        raise ModelError(
            f"no file or folder is called {pattern!r}",
            "wildcards are for names of timm and torchvision: 'resnet*d', 'torchvision:vit_*'",
        )
    known = names_of(family or "timm")
    found = [f"{family}{colon}{name}" for name in known if fnmatchcase(name, glob)]
    if not found:
        hint = close_to(glob.strip("*?"), known, None)
        raise ModelError(f"{family or 'timm'} has no network called {pattern!r}", hint)
    return found


def refuse_unknown(names: Iterable[str]) -> None:
    """Refuse a name that nothing is called, before any work is done for the others.

    Raises:
        ModelError: with the nearest.
    """
    from attnsurgeon.models.build import resolve

    for name in names:
        if not os.path.isfile(os.path.join(name, RECORD)):
            resolve(name)
