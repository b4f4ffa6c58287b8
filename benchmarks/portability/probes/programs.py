"""Graphs of the whole network: torch.export, torch.compile, torch.fx."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor

from attnsurgeon.attention.registry import lookup
from benchmarks.portability.comparing import apart, unequal
from benchmarks.portability.subject import SIZE, Subject


def export_any_size(subject: Subject) -> str:
    """Batch, height and width left open; the batch alone for what holds for one size only."""
    network = subject.network()
    axes = (0, 2, 3) if lookup(subject.mechanism).resolution_free else (0,)
    shapes = (dict.fromkeys(axes, torch.export.Dim.DYNAMIC),)
    # An axis that is 1 anywhere is taken to be so for ever: large enough for what pools by 4.
    one, other = (
        subject.input(batch, size if len(axes) > 1 else SIZE)
        for batch, size in ((2, (64, 48)), (3, (48, 40)))
    )
    program = torch.export.export(network, (one,), dynamic_shapes=shapes).module()
    with torch.no_grad():
        return apart(program(other), network(other))


def compile_whole(subject: Subject) -> str:
    """One graph (fullgraph=True), in training mode and in eval mode."""
    torch._dynamo.reset()  # or the next network is taken for a recompilation of the last
    x = subject.input()
    for train in (False, True):
        network = subject.network().train(train)
        compiled = torch.compile(copy.deepcopy(network), fullgraph=True, backend="aot_eager")
        made, expected = (_seeded(run, x).detach() for run in (compiled, network))
        if reason := apart(made, expected):
            return reason
    return ""


def _seeded(run: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Runs with the same numbers drawn each time: bat drops channels in training."""
    torch.manual_seed(0)
    return run(x)


def trace_symbolically(subject: Subject) -> str:
    """torch.fx.symbolic_trace, run at another batch and size."""
    network = subject.network()
    traced = torch.fx.symbolic_trace(subject.network())
    resolution_free = lookup(subject.mechanism).resolution_free
    other = subject.input(3, (40, 32) if resolution_free else SIZE)
    with torch.no_grad():
        return unequal(traced(other), network(other))
