"""Two outputs of one network -> "", or how far they are apart."""

from __future__ import annotations

import torch
from torch import Tensor


def apart(
    found: Tensor, expected: Tensor, tolerance: float = 1e-4, *, smallest: float = 0.0
) -> str:
    """Says by how much of the largest output two differ, where that is more than `tolerance`.

    Args:
        found, expected: the two.
        tolerance: as a share of the largest of `expected`.
        smallest: what the largest counts for at least; below it, values are rounding alone.
    """
    if found.shape != expected.shape:
        return f"gives the shape {tuple(found.shape)}, not {tuple(expected.shape)}"
    largest = max(float(expected.abs().max()), smallest)
    moved = float((found - expected).abs().max()) / (largest or 1.0)
    return "" if moved <= tolerance else f"the outputs differ by {moved:.2g} of the largest"


def unequal(found: Tensor, expected: Tensor) -> str:
    """Says so where two outputs are not the same to the bit."""
    return "" if torch.equal(found, expected) else "the outputs are not bit-equal"
