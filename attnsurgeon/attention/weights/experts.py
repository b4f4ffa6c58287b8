"""Several kernels for one convolution, of which each image has a sum of its own."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from attnsurgeon.attention.pictures import Seen
from attnsurgeon.attention.shapes import Conv, unflatten
from attnsurgeon.errors import MechanismError


class Experts(nn.Module):
    """The kernels beside the convolution's own weight, which is the first.

    Args:
        conv: whose weight they are like.
        number: of all kernels, the first among them.
    """

    def __init__(self, conv: Conv, number: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(number - 1, *conv.weight.shape))
        self.ones = (1,) * conv.weight.dim()
        self.apart = False

    def at_rest(self) -> None:
        """Makes the kernels what they differ by from the first, which is nothing yet."""
        nn.init.zeros_(self.weight)
        self.apart = True

    def mixed(self, shares: Tensor) -> Tensor:
        """Returns (N, out, in, ...): the sum of the kernels but the first, by shares (N, K)."""
        others = shares[:, 1:].to(self.weight.dtype) @ self.weight.flatten(1)
        return unflatten(others, 1, self.weight.shape[1:])

    def first(self, shares: Tensor) -> Tensor:
        """Returns the share of the first kernel as a view that broadcasts, (N, 1, 1, ...)."""
        return shares[:, 0].to(self.weight.dtype).reshape(-1, *self.ones)

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
