"""Operated network -> what of it is new: the attention, and a classifier that replaced another."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate

from torch import nn

from attnsurgeon.errors import UsageError, nearest
from attnsurgeon.models import left_random
from attnsurgeon.saved.origin import attention_prefixes
from attnsurgeon.splicing.history import added, history, inserted


@dataclass(frozen=True)
class NewParts:
    """Which names are new, as far as the network can tell, or are to be taken for that."""

    attention: tuple[str, ...]
    others: frozenset[str]
    heads: tuple[str, ...]

    @classmethod
    def of(cls, model: nn.Module, keep: tuple[str, ...] = ()) -> NewParts:
        """Ask a network; `keep` are names, paths or patterns that are to be taken for new."""
        attention = _attention(model)
        names = [name for name, _ in every_parameter(model)]
        paths = [path for path, _ in model.named_modules(remove_duplicate=False) if path]
        for pattern in keep:
            if not any(fnmatch.fnmatchcase(name, pattern) for name in (*names, *paths)):
                raise UsageError(
                    f"keep={pattern!r} is no module or parameter of this network",
                    nearest(pattern, [*paths, *names]),
                )
        left = [
            f"{path}.{name}" if path else name
            for path, module in model.named_modules()
            if not path or history(module)  # an operated network may stand inside another
            for name in left_random(module)
        ]
        return cls(attention, added(model), (*left, *keep))

    def __contains__(self, name: str) -> bool:
        owners = (*accumulate(name.split("."), "{}.{}".format),)
        return (
            name.startswith(self.attention)
            or name in self.others
            or any(fnmatch.fnmatchcase(owner, head) for head in self.heads for owner in owners)
        )

    def parameters(self, model: nn.Module) -> set[int]:
        """Return the ids of the parameters that are new by any of their names."""
        return {id(parameter) for name, parameter in every_parameter(model) if name in self}


def every_parameter(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield a network's parameters, a shared one under each of its names."""
    return model.named_parameters(remove_duplicate=False)


def _attention(model: nn.Module) -> tuple[str, ...]:
    if not any(inserted(model)):
        raise UsageError(
            "the network has no inserted attention", "attnsurgeon.insert(model, ...).model has"
        )
    return attention_prefixes(model)
