"""Operated network -> which parameters of before stand where an attention's parameters do."""

from __future__ import annotations

import re

from torch import nn

from attnsurgeon.saved.origin import attention_prefixes
from attnsurgeon.splicing.history import mark_of


def places(model: nn.Module) -> dict[str, tuple[str, ...]]:
    """Return name of a parameter of the attention -> names of those of its place.

    They are what the module holds whose output the attention works on. A pooling holds none: then
    it is the one that is registered last before it. Attention that several places share has all of
    theirs. Empty where the place is an operation of the network's own forward.
    """
    first = {id(parameter): name for name, parameter in model.named_parameters()}
    attention = attention_prefixes(model)
    base = [name for name in first.values() if not name.startswith(attention)]
    before = _before(model, attention)
    found: dict[str, tuple[str, ...]] = {}
    for _, module in model.named_modules(remove_duplicate=False):
        mark = mark_of(module)
        if mark is None:
            continue
        place = re.split(r"[:(#]", mark.site)[0]
        near = tuple(name for name in base if name.startswith(f"{place}."))
        near = near or before.get(place, ())
        for parameter in module.parameters():
            name = first[id(parameter)]
            found[name] = (*found.get(name, ()), *near)
    return {name: near for name, near in found.items() if name.startswith(attention)}


def _before(model: nn.Module, attention: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """Path of a module -> the parameter that is registered last before it."""
    before: dict[str, tuple[str, ...]] = {}
    last: tuple[str, ...] = ()
    for path, module in model.named_modules():
        if path:
            before[path] = last
        for leaf, _ in module.named_parameters(recurse=False):
            name = f"{path}.{leaf}" if path else leaf
            last = last if name.startswith(attention) else (name,)
    return before
