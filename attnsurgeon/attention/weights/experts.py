"""Several kernels for one convolution, of which each image has a sum of its own."""

from __future__ import annotations

from typing import Any

import torch
import torch.fx
from torch import Tensor, nn

from attnsurgeon.attention.gradients import applied, jit_traces
from attnsurgeon.attention.pictures import Seen
from attnsurgeon.attention.shapes import Conv, unflatten
from attnsurgeon.errors import MechanismError


def rows(weight: Tensor, others: Tensor, shares: Tensor) -> Tensor:
    """Returns (N, numbers of a kernel): all kernels by their shares, without a graph to keep.

    Args:
        weight: (out, in, ...), the first kernel.
        others: (K - 1, ...), as many numbers each, maybe none.
        shares: (N, K), of their dtype.
    """
    if not len(others):
        return shares * weight.flatten()
    made = (shares[:, 1:] @ others.flatten(1)).to(weight.dtype)
    if jit_traces():  # old formats know no other way
        return made + shares[:, :1] * weight.flatten()
    return torch.addr(made, shares[:, 0], weight.flatten())


class _Mixed(torch.autograd.Function):
    """`rows`, whose backward is a few products of matrices and makes nothing else of their size."""

    generate_vmap_rule = True

    @staticmethod
    def forward(weight: Tensor, others: Tensor, shares: Tensor) -> Tensor:
        return unflatten(rows(weight, others, shares), 1, weight.shape)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        return by_rows(grad.flatten(1), *ctx.saved_tensors)


def by_rows(grad: Tensor, weight: Tensor, others: Tensor, shares: Tensor) -> tuple[Tensor, ...]:
    """Returns the gradients of what `rows` is given, from that of what it returns."""
    by_kernels = shares.T @ grad
    by_shares = [grad @ kernels.T for kernels in (weight.flatten()[None], others.flatten(1))]
    return (
        by_kernels[0].reshape(weight.shape),
        by_kernels[1:].reshape(others.shape),
        torch.cat(by_shares, dim=1),
    )


@torch.fx.wrap
def mixed(weight: Tensor, others: Tensor, shares: Tensor) -> Tensor:
    """Returns (N, out, in, ...): the sum of all kernels by their shares.

    Args:
        weight: (out, in, ...), the first kernel.
        others: (K - 1, numbers of a kernel).
        shares: (N, K).
    """
    return applied(_Mixed, weight, others, shares.to(weight.dtype))


class Experts(nn.Module):
    """The kernels beside the convolution's own weight, which is the first.

    They are rows, (K - 1, numbers of a kernel): torch takes every parameter of four or five axes
    for one that has a memory format, and refuses channels_last where there are five.

    Args:
        conv: whose weight they are like.
        number: of all kernels, the first among them.
    """

    def __init__(self, conv: Conv, number: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(number - 1, conv.weight.numel()))
        self.shape = conv.weight.shape
        self.apart = False

    @property
    def kernels(self) -> Tensor:
        """The rows as kernels, (K - 1, out, in, ...)."""
        return unflatten(self.weight, 1, self.shape)

    def at_rest(self) -> None:
        """Makes the kernels what they differ by from the first, which is nothing yet."""
        nn.init.zeros_(self.weight)
        self.apart = True

    def others(self, shares: Tensor, weight: Tensor) -> Tensor:
        """Returns (N, out, in, ...): the sum of the kernels but the first, by shares (N, K).

        Args:
            shares: of all.
            weight: (out, in, ...), the first kernel.
        """
        others = shares[:, 1:].to(self.weight.dtype) @ self.weight
        return unflatten(others, 1, weight.shape)

    def extra_repr(self) -> str:
        """Returns whether the kernels are differences."""
        return f"others={len(self.weight)}, apart={self.apart}"


def several(number: int, name: str = "kernels") -> int:
    """Returns the number of kernels, of which there have to be two to choose from."""
    if number < 2:
        raise MechanismError(f"{name}={number} leaves nothing to mix", f"use {name}=4")
    return number


def shares(seen: Seen) -> dict[str, Tensor]:
    """Returns the share of each kernel, (N, K, C), the same for all channels."""
    made = seen.module.shares(seen.values[1])
    return {"branches": made.unsqueeze(2).expand(-1, -1, seen.values[0].shape[0])}
