"""The mechanisms under contract: one case for each mechanism and rank."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from attnsurgeon.attention.registry import Mechanism, create_attention, mechanisms

CHANNELS = 64
SIZES = {2: (7, 5), 3: (3, 7, 5)}
FORMATS = {2: torch.channels_last, 3: torch.channels_last_3d}
KINDS = ("gate",)  # the others have a folder each with a contract of their own
# What a mechanism needs at these sizes besides its defaults: 7 rows would be a single tile.
ARGS: dict[str, dict[str, Any]] = {"tse": {"tile": (2, None)}}

# Mechanisms that their authors too start as the identity.
IDENTITY_BY_ITS_AUTHORS = ("crisscross",)
# Mechanisms that do something while training only, so that evaluation depends on no batch.
IDENTITY_IN_EVAL = ("ba2m",)
# How large the values are that a mechanism has to hold in half precision, if not 1000.
LARGE = {"gam": 100.0}  # its output grows with the square of its input: 1000 would itself overflow


def make(name: str, channels: int | None = None, **args: Any) -> Any:
    """Returns create_attention's module, of no declared type: tests look into all of them."""
    return create_attention(name, channels, **args)


@dataclass(frozen=True)
class Case:
    """One mechanism at one rank."""

    card: Mechanism
    rank: int

    def build(self, init: str = "paper", *, channels: int = CHANNELS) -> Any:
        args = ARGS.get(self.card.name, {})
        return make(self.card.name, channels, rank=self.rank, init=init, **args)

    def params(self, channels: int = CHANNELS) -> int:
        return self.card.params(channels, rank=self.rank, **ARGS.get(self.card.name, {}))

    def input(self, batch: int = 2, size: tuple[int, ...] | None = None, **kwargs: Any) -> Tensor:
        return torch.randn(batch, CHANNELS, *(size or SIZES[self.rank]), **kwargs)

    def before(self, x: Tensor) -> Tensor:
        """Returns what the network computed before the surgery: for a gate, the value itself."""
        return x

    def steady(self, module: Any) -> Any:
        """Returns `module` in eval mode, or in the only mode in which it does something."""
        return module.train(self.card.name in IDENTITY_IN_EVAL)


CASES = [
    Case(card, rank)
    for card in mechanisms().values()
    if card.kind in KINDS and card.inputs({}) == ("value",)
    for rank in card.ranks
]

each_case = pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c.card.name}-{c.rank}d")
each_init = pytest.mark.parametrize("init", ["paper", "identity"])
each_mode = pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])


def params(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def stir(module: Any) -> Any:
    """Moves every parameter and statistic away from the values where terms vanish or tie."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        for name, buffer in module.named_buffers():
            if name.endswith("running_mean"):
                buffer.add_(0.1 * torch.randn_like(buffer))
            if name.endswith("running_var"):
                buffer.mul_(1 + 0.1 * torch.rand_like(buffer))
    return module


def gradients(module: Any, x: Tensor) -> Any:
    """Returns the output and the gradients of a fixed functional of it, input first."""
    x = x.detach().clone().requires_grad_()
    y = module(x)
    weights = torch.linspace(-1, 2, y.numel(), dtype=y.dtype).reshape(y.shape)
    wanted = [x, *module.parameters()]
    # What is not used has the gradient zero: that all is used is a claim of its own.
    return y, torch.autograd.grad((y * weights).sum(), wanted, materialize_grads=True)
