"""Structured pruning by Torch-Pruning."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from benchmarks.portability.subject import Subject

PATIENCE = 10.0  # seconds of the processor; most take less than one


def channels(subject: Subject) -> str:
    """Half of all channels pruned by Torch-Pruning; what is left runs and has gradients."""
    import torch_pruning  # pyright: ignore[reportMissingImports]

    network, x = subject.network(), subject.input()
    heads: list[nn.Module] = [
        m for m in network.modules() if isinstance(m, nn.Linear) and m.out_features == 10
    ]
    importance = torch_pruning.importance.MagnitudeImportance(p=2)
    before = sum(p.numel() for p in network.parameters())
    with _patience():
        pruner = torch_pruning.pruner.MetaPruner(
            network,
            x,
            importance=importance,
            pruning_ratio=0.5,
            ignored_layers=heads,
            # Its defaults are kept from one pruner to the next, and with them every network.
            in_channel_groups={},
            out_channel_groups={},
        )
        pruner.step()
    after = sum(p.numel() for p in network.parameters())
    y = network(x)
    y.sum().backward()
    if y.shape != (2, 10) or not torch.isfinite(y).all():
        return f"the pruned network gives {tuple(y.shape)}"
    return "" if after < 0.7 * before else f"{after / before:.0%} of the parameters are left"


@contextmanager
def _patience() -> Iterator[None]:
    """Ends what goes on for ever: indices that grow at every step through a graph."""

    def stop(number: int, frame: object) -> None:
        raise TimeoutError("Torch-Pruning comes to no end")

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, PATIENCE)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
