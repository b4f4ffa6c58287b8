"""The mechanisms under contract: a case is one mechanism, at one rank, with its arguments."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from attnsurgeon.attention.registry import Mechanism, create_attention, mechanisms

SIZES = {1: (11,), 2: (7, 5), 3: (3, 7, 5)}
FORMATS = {2: torch.channels_last, 3: torch.channels_last_3d}

# Mechanisms that their authors too start as the identity.
IDENTITY_BY_ITS_AUTHORS = ("crisscross", "gct", "gc", "nl", "generalized", "danet")
# Mechanisms that do something while training only, so that evaluation depends on no batch.
IDENTITY_IN_EVAL = ("ba2m",)
# How large the values are that a mechanism, or one form of it, has to hold in half precision, if
# not 1000. The output of these grows with the square of the input, of the last with its cube: from
# there on it would itself overflow. Involution and lambda are held by norms while training.
LARGE = {"gam": 100.0, "lka": 50.0, "lka-True": 10.0, "involution": 10.0, "nl-dot": 100.0}
LARGE |= {"lambda": 10.0}
HELD_IN_TRAINING = ("involution", "lambda")


def channels_last(x: Tensor) -> Tensor:
    """Returns `x` with the channels of a position side by side in memory."""
    return x.movedim(1, -1).contiguous().movedim(-1, 1)


def is_channels_last(x: Tensor) -> bool:
    return x.movedim(1, -1).is_contiguous()


def make(name: str, channels: int | None = None, **args: Any) -> Any:
    """Returns create_attention's module, of no declared type: tests look into all of them."""
    return create_attention(name, channels, **args)


@dataclass(frozen=True)
class Case:
    """One mechanism at one rank, as a module of one input; a kind says here what is its own.

    Attributes:
        card: the mechanism.
        rank: 1, 2 or 3.
        args: the arguments that are not the defaults, as (name, value).
        channels: C of the usual input.
        widths: the C at which parameters are counted.
        noise: what rounding may make of a gradient that is zero, in double precision.
        export_margin: by how much the map that an export starts from is larger than the usual one.
    """

    card: Mechanism
    rank: int
    args: tuple[tuple[str, Any], ...] = ()

    channels: ClassVar[int] = 64
    widths: ClassVar[tuple[int, ...]] = (64, 96, 256)
    noise: ClassVar[float] = 1e-12
    export_margin: ClassVar[int] = 0

    def __str__(self) -> str:
        return "-".join([self.card.name, f"{self.rank}d", *(str(value) for _, value in self.args)])

    def given(self) -> dict[str, Any]:
        """Returns the arguments that it is built with."""
        return dict(self.args)

    def build(self, init: str = "paper", *, channels: int | None = None) -> Any:
        channels = channels or self.channels
        return make(self.card.name, channels, rank=self.rank, init=init, **self.given())

    def params(self, channels: int | None = None) -> int:
        """Returns the declared number of parameters of the paper start."""
        return self.card.params(channels or self.channels, rank=self.rank, **self.given())

    def extra(self, channels: int | None = None) -> int:
        """Returns how many parameters the identity start has besides."""
        return {"native": 0, "blend": 1}[self.card.identity]

    def large(self, train: bool) -> float:
        """Returns how large the values are that it has to hold in half precision."""
        name = self.card.name
        if train and name in HELD_IN_TRAINING:
            return 1000.0
        form = "-".join([name, *(str(value) for _, value in self.args)])
        return LARGE.get(form, LARGE.get(name, 1000.0))

    def input(self, batch: int = 2, size: tuple[int, ...] | None = None, **kwargs: Any) -> Tensor:
        return torch.randn(batch, self.channels, *(size or SIZES[self.rank]), **kwargs)

    def before(self, x: Tensor) -> Tensor:
        """Returns what the network computed before the surgery: for a gate, the value itself."""
        return x

    @property
    def spatial(self) -> bool:
        """Says whether the order of positions matters."""
        return self.card.spatial

    def keeps_layout(self, x: Tensor) -> bool:
        """Says whether the output has to be channels-last where `x` is: torch's convolutions of
        signals make none.
        """
        return self.rank > 1

    def free_axes(self) -> tuple[int, ...]:
        """Returns the axes whose size an exported program leaves open."""
        return (0, 2, 3)[: self.rank + 1] if self.card.resolution_free else (0,)

    def steady(self, module: Any) -> Any:
        """Returns `module` in eval mode, or in the only mode in which it does something."""
        return module.train(self.card.name in IDENTITY_IN_EVAL)

    def moved(self, module: Any) -> Any:
        """Returns `module` with what the mechanism brought stirred, and nothing else."""
        return stir(module)


@dataclass(frozen=True)
class Part(Case):
    """A mechanism as a network has it, on few channels: what it is handed lies in one input."""

    channels: ClassVar[int] = 32


class Beside(nn.Module):
    """Two inputs as one: the channels of the first, and beside them those of the second.

    Args:
        inner: the mechanism of two inputs.
        channels: of the first input.
    """

    def __init__(self, inner: nn.Module, channels: int) -> None:
        super().__init__()
        self.inner = inner
        self.channels = channels

    def forward(self, both: Tensor) -> Tensor:
        """Returns what the mechanism makes of the two."""
        return self.inner(both[:, : self.channels], both[:, self.channels :])


@dataclass(frozen=True)
class Pair(Part):
    """A mechanism of two inputs, which lie beside each other in the input of a case."""

    second: int | None = None

    def build(self, init: str = "paper", *, channels: int | None = None) -> Any:
        return Beside(super().build(init, channels=channels), channels or self.channels)

    def input(self, batch: int = 2, size: tuple[int, ...] | None = None, **kwargs: Any) -> Tensor:
        total = self.channels + (self.second or self.channels)
        return torch.randn(batch, total, *(size or SIZES[self.rank]), **kwargs)

    def halves(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the two inputs."""
        return x[:, : self.channels], x[:, self.channels :]


def of_kind(kind: str) -> list[Mechanism]:
    """Returns the mechanisms of that kind."""
    return [card for card in mechanisms().values() if card.kind == kind]


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
