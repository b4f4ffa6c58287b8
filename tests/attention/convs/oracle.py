"""Layers by their definitions, in plain loops, for one image (C, H, W)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def convolved(
    weight: Tensor,
    x: Tensor,
    *,
    stride: int = 1,
    padding: tuple[int, int] = (0, 0),
    dilation: tuple[int, int] = (1, 1),
    groups: int = 1,
    bias: Tensor | None = None,
) -> Tensor:
    """Returns the convolution of (C, H, W) with a weight (out, C / groups, k, l)."""
    outputs, share, rows, columns = weight.shape
    _, height, width = x.shape
    sides = [
        (n + 2 * p - d * (k - 1) - 1) // stride + 1
        for n, p, d, k in zip((height, width), padding, dilation, (rows, columns), strict=True)
    ]
    made = torch.zeros(outputs, *sides, dtype=x.dtype)
    for o in range(outputs):
        start = o // (outputs // groups) * share
        for h in range(sides[0]):
            for w in range(sides[1]):
                total = 0.0 if bias is None else bias[o].item()
                for i in range(rows):
                    for j in range(columns):
                        a = h * stride - padding[0] + i * dilation[0]
                        b = w * stride - padding[1] + j * dilation[1]
                        if 0 <= a < height and 0 <= b < width:
                            total += (weight[o, :, i, j] @ x[start : start + share, a, b]).item()
                made[o, h, w] = total
    return made


def normalised(norm: Any, z: Tensor) -> Tensor:
    """Returns the batch norm of (C, ...) in eval mode."""
    made = torch.empty_like(z)
    for c in range(len(z)):
        scale = norm.weight[c].item() / (norm.running_var[c].item() + 1e-5) ** 0.5
        made[c] = (z[c] - norm.running_mean[c].item()) * scale + norm.bias[c].item()
    return made
