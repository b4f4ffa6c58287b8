"""A network with pretrained weights -> the classifiers that the weights did not fit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from attnsurgeon.models.provenance import source_of


def classifiers_left_random(model: nn.Module) -> tuple[str, ...]:
    """Return the paths of classifiers that `load_model` could not fill with pretrained weights.

    timm drops a classifier's weights, without a word, where they are for another number of
    classes than was asked for. Everything else that names a network refuses to build that.
    """
    source = source_of(model)
    published: Any = getattr(model, "pretrained_cfg", None)
    if source is None or source.weights != "pretrained" or not isinstance(published, Mapping):
        return ()
    if published.get("num_classes") == getattr(model, "num_classes", None):
        return ()
    named = published.get("classifier") or ()
    return (named,) if isinstance(named, str) else tuple(named)
