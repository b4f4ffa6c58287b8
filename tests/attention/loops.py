"""Layers by their definitions, on plain numbers, for oracles of mechanisms."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def linear(layer: Any, values: list[float]) -> list[float]:
    """Returns what a linear layer, or a 1x1 convolution at one position, makes of values."""
    weight = layer.weight.flatten(1).tolist()
    bias = [0.0] * len(weight) if layer.bias is None else layer.bias.tolist()
    return [
        sum(w * v for w, v in zip(row, values, strict=True)) + b
        for row, b in zip(weight, bias, strict=True)
    ]


def normalised(norm: Any, values: list[float]) -> list[float]:
    """Returns the batch norm, in eval mode, of one value a channel."""
    found = []
    for c, value in enumerate(values):
        scale = norm.weight[c].item() / (norm.running_var[c].item() + norm.eps) ** 0.5
        found.append((value - norm.running_mean[c].item()) * scale + norm.bias[c].item())
    return found


def relu(values: list[float]) -> list[float]:
    """Returns the values, negative ones as 0."""
    return [max(v, 0.0) for v in values]


def means(image: Tensor) -> list[float]:
    """Returns the mean of each channel of (C, ...)."""
    return [sum(channel) / len(channel) for channel in image.flatten(1).tolist()]
