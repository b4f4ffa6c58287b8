"""Float32 at least for what half precision cannot hold, also where autocast is on."""

from __future__ import annotations

import torch
from torch import Tensor


def wide(x: Tensor) -> torch.dtype:
    """Returns the dtype of `x`, or float32 for half-precision values."""
    return torch.promote_types(x.dtype, torch.float32)


def without_autocast(x: Tensor) -> torch.autocast:
    """Returns the context in which products on the device of `x` keep the dtype of their inputs."""
    device = x.device.type if torch.amp.is_autocast_available(x.device.type) else "cpu"
    return torch.autocast(device, enabled=False)
