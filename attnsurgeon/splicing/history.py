"""What an operated network remembers: the records of its operations, and marks on what went in."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from attnsurgeon.recording.record import MARK
from attnsurgeon.splicing.configs import write_config
from attnsurgeon.splicing.makeup import Makeup

HISTORY = "_attnsurgeon_history"  # attribute of the network: the records of its operations
STRIPPED = "_attnsurgeon_stripped"  # of a module whose parameters were taken away
# What the name of a layer may have in addition that was wrapped since, by torch.compile or by PEFT;
# a network may have a module of such a name itself (DLA's `base_layer`).
_WRAPPERS = ("_orig_mod", "base_layer", "original_module")
_BASE = "_attnsurgeon_base"  # and the shapes of the tensors that it had before the first


@dataclass(frozen=True)
class Mark:
    """What an inserted module remembers of its cut; a plain attribute, in no state dict.

    Attributes:
        site, attn, technique: of the cut.
        makeup: what the module was made of then; None where an older version has marked it.
        beside: of a row of tokens, how many of no position stand ahead of its map and behind it.
    """

    site: str
    attn: str
    technique: str
    makeup: Makeup | None = None
    beside: tuple[int, int] = (0, 0)


def history(model: nn.Module) -> tuple[dict[str, Any], ...]:
    """The records (`Plan.record`) of the operations on a network, oldest first."""
    return model.__dict__.get(HISTORY, ())


def remember(
    model: nn.Module,
    records: Sequence[Mapping[str, Any]],
    *,
    base: Mapping[str, tuple[int, ...]] | None = None,
) -> None:
    """Makes these records the history of a network, and of the config it is saved with.

    Args:
        model: the network.
        records: of its operations, oldest first.
        base: the shapes that it had before the first, where that is not what it has now.
    """
    model.__dict__.pop(HISTORY, None)
    if records:
        model.__dict__[HISTORY] = tuple(records)
        if base is not None:
            model.__dict__[_BASE] = base
        elif _BASE not in model.__dict__:
            model.__dict__[_BASE] = _shapes(model)
    else:
        model.__dict__.pop(_BASE, None)
    write_config(model, records)


def base_shapes(model: nn.Module) -> Mapping[str, tuple[int, ...]] | None:
    """Name -> shape of the tensors that an operated network had before its first operation."""
    return model.__dict__.get(_BASE)


def added(model: nn.Module) -> frozenset[str]:
    """Names of the parameters and buffers that the network did not have when it was operated.

    The inserted attention; what has been replaced since by something of another name or shape, as
    `reset_classifier` replaces a classifier; and what stands around the operated network.
    """
    now = _shapes(model, attention=True)
    kept: set[str] = set()
    for path, module in model.named_modules(remove_duplicate=False):
        base: Mapping[str, tuple[int, ...]] = module.__dict__.get(_BASE, {})
        prefix = f"{path}." if path and base else ""
        inside = (name for name in now if base and name.startswith(prefix))
        kept |= {name for name in inside if _was_there(name[len(prefix) :], now[name], base)}
    return frozenset(now) - kept


def _was_there(name: str, shape: tuple[int, ...], base: Mapping[str, tuple[int, ...]]) -> bool:
    for named in _unwrapped(name):
        owner, computed, inner = named.partition(".parametrizations.")
        if base.get(named) == shape:
            return True
        if computed and f"{owner}.{inner.partition('.')[0]}" in base:  # from others since
            return True
    return False


def _unwrapped(name: str) -> Iterator[str]:
    """Yields a name, and what it is without some or all of the parts that wrappers put in."""
    parts = name.split(".")
    places = [i for i, part in enumerate(parts) if part in _WRAPPERS]
    for number in range(len(places) + 1):
        for left_out in itertools.combinations(places, number):
            yield ".".join(part for i, part in enumerate(parts) if i not in left_out)


def _shapes(model: nn.Module, *, attention: bool = False) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every parameter and buffer, under each of its names."""
    shapes: dict[str, tuple[int, ...]] = {}
    left_out: tuple[str, ...] = ()
    for path, module in model.named_modules(remove_duplicate=False):
        prefix = f"{path}." if path else ""
        if not attention and module.__dict__.get(MARK) is not None:
            left_out = (*left_out, prefix)
        if prefix.startswith(left_out):
            continue
        for name, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is not None:
                shapes[prefix + name] = tuple(tensor.shape)
    return shapes


def forget(model: nn.Module, paths: set[str]) -> None:
    """Strikes cuts from the history of a network, by the paths of their modules."""
    kept = [
        {**record, "sites": [s for s in record["sites"] if s["module_path"] not in paths]}
        for record in history(model)
    ]
    remember(model, [record for record in kept if record["sites"]])


def mark_of(module: nn.Module) -> Mark | None:
    """What a module remembers of its cut, None for one that surgery did not insert."""
    return module.__dict__.get(MARK)


def changes_of(module: nn.Module) -> str:
    """Says what of an inserted module is no longer as it was put in; "" where nothing is."""
    mark = mark_of(module)
    then = None if mark is None else mark.makeup
    found = [] if then is None else then.differences(Makeup.of(module))
    more = f"; and {len(found) - 3} more" if len(found) > 3 else ""
    return "; ".join(found[:3]) + more


def inserted(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yields path and module of every attention that surgery put into `model`."""
    for path, module in model.named_modules():
        if module.__dict__.get(MARK) is not None:
            yield path, module
