"""The convolutions that mechanisms replace or work in: one case for each mechanism and rank."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from attnsurgeon.attention.registry import Mechanism, create_attention, create_part
from attnsurgeon.attention.shapes import CONV
from tests.attention.cases import SIZES, Case, is_channels_last, of_kind, params, stir

PLAIN: dict[str, Any] = {"kernel_size": 3, "padding": 1, "bias": False}
# What is made at each position of its input, and is no convolution itself.
IN_PLACE = ("cot", "involution")
# The same, but it may make another number of channels.
EVERYWHERE = (*IN_PLACE, "bot", "halo", "lambda")
# What a convolution may be like otherwise than a 3x3 one that keeps channels and size.
FORMS: dict[str, dict[str, Any]] = {
    "plain": {},
    "stride": {"stride": 2},
    "dilation": {"dilation": 2, "padding": 2},
    "groups": {"groups": 4},
    "wider": {"out_channels": 32},
    "narrower": {"in_channels": 32},
    "bias": {"bias": True},
    "valid": {"padding": 0},
    "same": {"padding": "same"},
    "five": {"kernel_size": 5, "padding": 2},
    "reflect": {"padding_mode": "reflect"},
}


@dataclass(frozen=True)
class InConv(Case):
    """A mechanism that is built from a convolution, as it stands alone.

    Every method that takes `conv` takes the plain one where none is given.

    Attributes:
        form: what the arguments make of it, in a word.
    """

    form: str = ""

    channels: ClassVar[int] = 16
    widths: ClassVar[tuple[int, ...]] = (16, 48)
    export_margin: ClassVar[int] = 4  # a window of sc's is to be no whole axis

    def __str__(self) -> str:
        return "-".join(filter(None, (self.card.name, f"{self.rank}d", self.form)))

    def conv(self, channels: int | None = None, **form: Any) -> Any:
        """Returns a convolution; those of one form are equal."""
        width = channels or self.channels
        shape = {"in_channels": width, "out_channels": width, **PLAIN, **form}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            return CONV[self.rank](**shape)

    def refusals(self) -> dict[str, str]:
        """Returns the forms that it cannot be built from, with a word of the reason."""
        return {}

    def convs(self) -> list[Any]:
        """Returns convolutions of every form that it can be built from."""
        return [self.conv(**form) for name, form in FORMS.items() if name not in self.refusals()]

    def build(
        self, init: str = "paper", *, channels: int | None = None, conv: nn.Module | None = None
    ) -> Any:
        conv = conv or self.conv(channels)
        return create_attention(self.card.name, conv=conv, init=init, **self.given())

    def part(self, init: str = "paper", *, conv: nn.Module | None = None) -> Any:
        """Returns the mechanism as a network has it."""
        return create_part(self.card.name, conv or self.conv(), init=init, **self.given())

    def count(self, conv: nn.Module | None = None) -> int:
        """Returns the declared number of parameters of the part."""
        return self.card.params(conv or self.conv(), **self.given())

    def input(
        self,
        batch: int = 2,
        size: tuple[int, ...] | None = None,
        *,
        channels: int | None = None,
        **kwargs: Any,
    ) -> Tensor:
        sides = size or SIZES[self.rank]
        return torch.randn(batch, channels or self.channels, *sides, **kwargs)

    def before(self, x: Tensor) -> Tensor:
        return self.conv().to(x.device, x.dtype)(x)

    def keeps_layout(self, x: Tensor) -> bool:
        # On a CPU, but in two dimensions, a convolution does not.
        return is_channels_last(self.before(x))


@dataclass(frozen=True)
class Alone(InConv):
    """A mechanism in the place of a convolution, which stays beside it under the identity start."""

    def given(self) -> dict[str, Any]:
        facts = {"rank": self.rank, "conv": self.conv()}
        return self.card.args_at(SIZES[self.rank], dict(self.args), **facts)

    def refusals(self) -> dict[str, str]:
        groups = {"groups": "4 groups"} if self.card.name == "psa" else {}
        in_place = {"valid": "leaves some out"} if self.card.name in EVERYWHERE else {}
        if self.card.name in IN_PLACE:
            in_place |= dict.fromkeys(("wider", "narrower"), "it keeps the number of channels")
        return {"reflect": "pads with 'reflect'", **groups, **in_place}

    def params(self, channels: int | None = None) -> int:
        return self.count(self.conv(channels))

    def extra(self, channels: int | None = None) -> int:
        return 1 + params(self.conv(channels))

    def moved(self, module: Any) -> Any:
        stir(module)
        if hasattr(module, "base"):
            module.base.load_state_dict(self.conv().state_dict())
        return module


class Handed(nn.Module):
    """A part as it is called in a network: with the identity, it is handed the old result, too.

    Args:
        inner: the part.
        old: the convolution that was there, whose parameters are no part of this; or None.
    """

    def __init__(self, inner: nn.Module, old: nn.Module | None) -> None:
        super().__init__()
        self.inner = inner
        self.old = old
        for name, value in list(old.named_parameters()) if old is not None else []:
            delattr(old, name)
            old.register_buffer(name, value.detach(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Returns what the part makes of it."""
        return self.inner(x) if self.old is None else self.inner(x, self.old(x))


@dataclass(frozen=True)
class InNetwork(Alone):
    """The same as a network has it, which goes on computing the convolution itself."""

    def __str__(self) -> str:
        return f"{super().__str__()}-in-network"

    def build(
        self, init: str = "paper", *, channels: int | None = None, conv: nn.Module | None = None
    ) -> Any:
        conv = conv or self.conv(channels)
        part = self.part(init, conv=conv)
        return Handed(part, copy.deepcopy(conv) if init == "identity" else None)

    def extra(self, channels: int | None = None) -> int:
        return 1

    def moved(self, module: Any) -> Any:
        return stir(module)


def forms(
    kind: str, **args: dict[str, dict[str, Any]]
) -> Iterator[tuple[Mechanism, int, Any, str]]:
    """Yields what a case of each mechanism is made of; `args` are by mechanism and form.

    The first form is a case at every rank, the others at that of images.
    """
    for card in of_kind(kind):
        first, *others = args.get(card.name, {"": {}}).items()
        for form, given in (first, *others):
            for rank in card.ranks if form == first[0] else (2,):
                yield card, rank, tuple(given.items()), form
