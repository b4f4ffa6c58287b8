"""Operated network of timm's -> the config.json by which timm finds it in its folder.

`local-dir:DIR` and `hf-hub:ORG/NAME` are names of timm's for what such a file describes. The
architecture that it names is registered by `integrations/timm.py`: where that is not imported, timm
says that it does not know the model, instead of building the base and leaving the attention out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from attnsurgeon.models import Source

ARCHITECTURE = "attnsurgeon"
# What timm prepares images by, and what it finds the classifier by.
_KEPT = (
    *("input_size", "test_input_size", "min_input_size", "fixed_input_size", "pool_size"),
    *("interpolation", "crop_pct", "test_crop_pct", "crop_mode", "mean", "std"),
    *("first_conv", "classifier", "license"),
)


def timm_config(model: nn.Module, source: Source | None) -> dict[str, Any] | None:
    """Return what timm reads of a folder; None of a network that is not of its registry.

    Args:
        model: the operated network.
        source: how its base is built.
    """
    known: Any = getattr(model, "pretrained_cfg", None)
    if source is None or not isinstance(known, Mapping):
        return None
    family, colon, _ = source.spec.partition(":")
    if colon and family != "timm":
        return None
    config = {name: known[name] for name in _KEPT if known.get(name) is not None}
    classes = getattr(model, "num_classes", None)
    return {"architecture": ARCHITECTURE, "num_classes": classes, "pretrained_cfg": config}
