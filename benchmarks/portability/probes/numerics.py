"""Other dtypes, other layouts in memory, deterministic algorithms."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from benchmarks.portability.comparing import apart
from benchmarks.portability.subject import Subject

_BFLOAT16 = 0.1  # of the largest output: eight bits in each of some twenty layers


def autocast(subject: Subject) -> str:
    """Forward and backward under torch.autocast to bfloat16, near those of float32."""
    x = subject.input()
    expected, _ = _trained(subject.network(), x)
    with torch.autocast("cpu", torch.bfloat16):
        found, gradients = _trained(subject.network(), x)
    if not all(gradient.isfinite().all() for gradient in gradients):
        return "a gradient is not finite"
    return apart(found.float(), expected, _BFLOAT16)


def channels_last(subject: Subject) -> str:
    """Memory format torch.channels_last, forward and backward."""
    x = subject.input()
    expected, by_rows = _trained(subject.network(), x)
    network = subject.network().to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    found, by_channels = _trained(network, x.to(memory_format=torch.channels_last))
    smallest = 1e-4 * max(float(gradient.abs().max()) for gradient in by_rows)
    worst = (
        apart(a, b, 1e-2, smallest=smallest) for a, b in zip(by_channels, by_rows, strict=True)
    )
    return apart(found, expected) or next((f"gradient: {reason}" for reason in worst if reason), "")


def deterministic(subject: Subject) -> str:
    """torch.use_deterministic_algorithms(True): two runs in training mode are bit-equal."""
    x = subject.input()
    torch.use_deterministic_algorithms(True)
    try:
        first, second = (_trained(subject.network().train(), x) for _ in range(2))
    finally:
        torch.use_deterministic_algorithms(False)
    same = torch.equal(first[0], second[0]) and all(map(torch.equal, first[1], second[1]))
    return "" if same else "two runs are not bit-equal"


def _trained(network: nn.Module, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Returns the output, and the gradients of its square, under one seed."""
    torch.manual_seed(3)
    y = network(x)
    y.float().square().sum().backward()
    return y.detach(), [p.grad for p in network.parameters() if p.grad is not None]
