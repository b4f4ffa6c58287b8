"""A network of timm -> the layer every parameter is in, as its authors count them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn


def timm_layers(model: nn.Module, without: tuple[str, ...] = ()) -> dict[str, int] | None:
    """Return parameter name -> number of its layer, from the input on.

    Networks of timm say in `group_matcher` which of their modules make up one layer.

    Args:
        model: any network.
        without: what the names of the parameters begin with that are left out, and not counted.

    Returns:
        None for a network that does not say.
    """
    matcher = getattr(model, "group_matcher", None)
    if not callable(matcher):
        return None
    from timm.models import group_parameters

    kept: Any = _Kept(model, without)
    return group_parameters(kept, matcher(coarse=False), reverse=True)


@dataclass(frozen=True)
class _Kept:
    """A network as timm looks at it here, by its parameters alone."""

    model: nn.Module
    without: tuple[str, ...]

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        for name, parameter in self.model.named_parameters():
            if not name.startswith(self.without):
                yield name, parameter


def undecayed_by_name(model: nn.Module) -> list[str]:
    """Return the patterns of the parameters that networks of timm want no weight decay for.

    They say so in `no_weight_decay`; one that stands inside another network is asked as well, but
    no part of one, which timm does not ask either.
    """
    patterns: list[str] = []
    asked: tuple[str, ...] = ()
    for path, module in model.named_modules():
        said = getattr(module, "no_weight_decay", None)
        whole = callable(said) or callable(getattr(module, "group_matcher", None))
        if f"{path}.".startswith(asked) or not whole:
            continue
        prefix = f"{path}." if path else ""
        asked = (*asked, prefix)
        names: Any = said() if callable(said) else ()
        patterns += [prefix + name for name in names]
    return patterns
