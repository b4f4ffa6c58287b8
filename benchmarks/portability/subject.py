"""A mechanism and a start -> the small network with it, as a training has left it."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import attnsurgeon
from attnsurgeon.attention.registry import lookup
from attnsurgeon.errors import RuleError
from benchmarks.portability.network import Network, Segmenter

SIZE = (32, 24)


@dataclass(frozen=True)
class Subject:
    """What a probe is given.

    Attributes:
        mechanism: its name.
        init: "identity" or "paper".
    """

    mechanism: str
    init: str

    def network(self) -> nn.Module:
        """Returns a fresh operated network in eval mode, the same at every call.

        Its parameters and statistics are moved off the values where terms vanish or tie.
        """
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(7)
            network = operated(base_of(self.mechanism)(), self.mechanism, self.init)
            return stirred(network).eval()

    def input(self, batch: int = 2, size: tuple[int, int] = SIZE) -> Tensor:
        """Returns random images, (N, 3, H, W), the same at every call."""
        return images_of(batch, batch, size)


def images_of(batch: int, seed: int, size: tuple[int, int] = SIZE) -> Tensor:
    """Returns random images, (N, 3, H, W), the same for one seed."""
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(seed))


def bare(base: type[nn.Module]) -> nn.Module:
    """Returns the network that mechanisms are put into in eval mode, moved like operated ones."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(7)
        return stirred(base()).eval()


def base_of(mechanism: str) -> type[nn.Module]:
    """Returns the class of the network that a mechanism is put into."""
    return Segmenter if lookup(mechanism).placement.endswith("skip") else Network


def operated(network: nn.Module, mechanism: str, init: str) -> nn.Module:
    """Puts a mechanism at its own placement, or behind each block's branch where there is none."""
    insert = functools.partial(
        attnsurgeon.insert, network, mechanism, init=init, input_size=(3, *SIZE), inplace=True
    )
    try:
        return insert().model
    except RuleError:
        return insert(where="residual-branch").model


def stirred(network: nn.Module) -> nn.Module:
    """Moves parameters and statistics, in place: a layer by a third of its usual start."""
    with torch.no_grad():
        for tensor in network.parameters():
            usual = tensor[0].numel() ** -0.5 if tensor.dim() > 1 else 0.3
            tensor.add_(0.3 * usual * torch.randn_like(tensor))
        for name, tensor in network.named_buffers():
            if name.endswith("running_mean"):
                tensor.add_(0.1 * torch.randn_like(tensor))
            if name.endswith("running_var"):
                tensor.mul_(1 + 0.1 * torch.rand_like(tensor))
    return network
