"""One line (N, C, L) along each position axis -> a map; (N, C, ...) times one gate along each."""

from __future__ import annotations

from typing import Any

import torch
import torch.fx
from torch import Tensor

from attnsurgeon.attention.gradients import applied

AXES = "dhw"


def along(z: Tensor, axis: int, rank: int) -> Tensor:
    """Returns `z` (N, C, L) as a view that runs along one position axis and broadcasts else."""
    for other in range(rank):
        z = z if other == axis else z.unsqueeze(2 + other)
    return z


def summed(*lines: Tensor) -> Tensor:
    """Returns (N, C, ...), at each position the sum of what the lines have there."""
    rank = len(lines)
    total = along(lines[0], 0, rank)
    for axis in range(1, rank):
        total = total + along(lines[axis], axis, rank)
    return total


def _gated(x: Tensor, *gates: Tensor) -> Tensor:
    for axis, gate in enumerate(gates):
        x = x * along(gate, axis, len(gates))
    return x


class _Gated(torch.autograd.Function):
    """The product, of which nothing is kept but its factors: no product of some of them."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, *gates: Tensor) -> Tensor:
        return _gated(x, *gates)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        x, *gates = ctx.saved_tensors
        axes = AXES[-len(gates) :]
        by_factors = grad * x
        by_gates = []
        for axis in axes:  # products of matrices, where broadcasting would go line by line
            others = [(a, gate) for a, gate in zip(axes, gates, strict=True) if a != axis]
            terms = ",".join(f"nc{a}" for a, _ in others)
            equation = f"nc{axes},{terms}->nc{axis}"
            by_gates.append(torch.einsum(equation, by_factors, *(gate for _, gate in others)))
        return _gated(grad, *gates), *by_gates


@torch.fx.wrap
def gated(x: Tensor, *gates: Tensor) -> Tensor:
    """Returns `x` (N, C, ...) times a gate (N, C, L) along each of its two or three axes."""
    return applied(_Gated, x, *gates)
