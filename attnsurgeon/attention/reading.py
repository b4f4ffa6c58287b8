"""A layer of a mechanism -> the same, known as one whose weights are read by another's forward.

Such a layer is never called: what is put around it, as an adapter is, would compute nothing. Its
class, keys and values stay as they are.
"""

from __future__ import annotations

from typing import TypeVar

from torch import nn

READ = "_attnsurgeon_read"  # attribute of the layer, in no state dict

_Layer = TypeVar("_Layer", bound=nn.Module)


def read(layer: _Layer) -> _Layer:
    """Marks a layer whose weights are read instead of the layer being called."""
    layer.__dict__[READ] = True
    return layer
