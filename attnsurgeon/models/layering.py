"""A network of timm -> the layer every parameter is in, as its authors count them."""

from __future__ import annotations

from torch import nn


def timm_layers(model: nn.Module) -> dict[str, int] | None:
    """Return parameter name -> number of its layer, from the input on.

    Networks of timm say in `group_matcher` which of their modules make up one layer.

    Returns:
        None for a network that does not say.
    """
    matcher = getattr(model, "group_matcher", None)
    if not callable(matcher):
        return None
    from timm.models import group_parameters

    return group_parameters(model, matcher(coarse=False), reverse=True)
