"""Two outputs of one network -> "", or how far they are apart."""

from __future__ import annotations

import torch
from torch import Tensor


def apart(found: Tensor, expected: Tensor, tolerance: float = 1e-4) -> str:
    """Says by how much of the largest output two differ, where that is more than `tolerance`."""
    if found.shape != expected.shape:
        return f"gives the shape {tuple(found.shape)}, not {tuple(expected.shape)}"
    largest = float(expected.abs().max())
    moved = float((found - expected).abs().max()) / (largest or 1.0)
    return "" if moved <= tolerance else f"the outputs differ by {moved:.2g} of the largest"


def unequal(found: Tensor, expected: Tensor) -> str:
    """Says so where two outputs are not the same to the bit."""
    return "" if torch.equal(found, expected) else "the outputs are not bit-equal"
