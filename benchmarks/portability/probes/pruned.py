"""Structured pruning by Torch-Pruning."""

from __future__ import annotations

import torch
from torch import nn

from benchmarks.portability.subject import Subject


def channels(subject: Subject) -> str:
    """Half of all channels pruned by Torch-Pruning; what is left runs and has gradients."""
    import torch_pruning  # pyright: ignore[reportMissingImports]

    network, x = subject.network(), subject.input()
    heads = [m for m in network.modules() if isinstance(m, nn.Linear) and m.out_features == 10]
    importance = torch_pruning.importance.MagnitudeImportance(p=2)
    pruner = torch_pruning.pruner.MetaPruner(
        network, x, importance=importance, pruning_ratio=0.5, ignored_layers=heads
    )
    before = sum(p.numel() for p in network.parameters())
    pruner.step()
    after = sum(p.numel() for p in network.parameters())
    y = network(x)
    y.sum().backward()
    if y.shape != (2, 10) or not torch.isfinite(y).all():
        return f"the pruned network gives {tuple(y.shape)}"
    return "" if after < 0.7 * before else f"{after / before:.0%} of the parameters are left"
