"""Weights that do not fit a network -> the registered network of its kin that they fit."""

from __future__ import annotations

import difflib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import nn

from attnsurgeon.errors import ModelError
from attnsurgeon.models.finding import FORGIVEN, shape_of

_MOST_NAMES, _MOST_SECONDS = 40, 1.5  # of this thread


def kin_that_fits(
    spec: str, state: Mapping[str, Any], build: Callable[[str], nn.Module]
) -> str | None:
    """Find the network whose weights these are, among the kin of the named one.

    Of a `resnet50` these are all whose name holds that name or is held by it, then all networks of
    timm's `resnet.py`, the nearest names first.

    Args:
        spec: the network that was named.
        state: the weights by name.
        build: makes the network of a spec, without numbers.

    Returns:
        Its spec; None where none has these very names and shapes, or none was found in time.
    """
    wanted = _shapes(state)
    until = time.thread_time() + _MOST_SECONDS
    for name in _kin(spec):
        if time.thread_time() > until:
            return None
        try:
            network = build(name)
        except ModelError:  # not with these arguments
            continue
        if _shapes(network.state_dict()) == wanted:
            return name
    return None


def _shapes(state: Mapping[str, Any]) -> dict[str, Any]:
    return {name: shape_of(value) for name, value in state.items() if not name.endswith(FORGIVEN)}


def _kin(spec: str) -> Iterator[str]:
    import timm
    import torchvision.models as torchvision

    family, colon, name = spec.rpartition(":")
    if not colon and timm.is_model(spec):
        module = timm.models.model_entrypoint(spec).__module__.rpartition(".")[2]
        own = spec.partition(".")[0]
        names = timm.list_models(module=module)
        names += [n for n in timm.list_models() if own in n or n in own]
    elif family == "torchvision" and name in torchvision.list_models():
        module = torchvision.get_model_builder(name).__module__
        known = torchvision.list_models()
        names = [n for n in known if torchvision.get_model_builder(n).__module__ == module]
        own = name
    else:
        return
    prefix = f"{family}:" if colon else ""
    others = sorted({*names} - {own}, key=lambda n: (own not in n and n not in own, -_near(own, n)))
    yield from (prefix + found for found in others[:_MOST_NAMES])


def _near(name: str, other: str) -> float:
    return difflib.SequenceMatcher(None, name, other).ratio()
