"""A mechanism as its authors start it -> the same mechanism computing y = x exactly.

    native    zero the last layer; the gate sigmoid(0) = 1/2 is rescaled by 2, so y = x * 1
    blend     y = old + g * (mechanism(x) - old) with a learnable g = 0

where `old` is what the network computed there before: x itself for a gate, the convolution of x
for what replaces a convolution, the sum for what replaces an addition. Both are exact to the bit.
The native form learns from the first step and adds no parameter, at the price of a gate in (0, 2)
instead of (0, 1); the blend works for everything finite, but only g receives a gradient at the
first step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
import torch.fx
from torch import Tensor, nn
from torch.nn import functional as F

Start = Callable[[nn.Module, nn.Module | None], nn.Module]
Within = Callable[[nn.Module], nn.Module]


@dataclass(frozen=True)
class Identity:
    """How a mechanism starts as the identity.

    Attributes:
        form: "native" or "blend".
        how: one sentence for the card.
        start: (mechanism, the module it replaces or None) -> the module that starts as identity,
            and that stands alone.
        within: mechanism -> the same for a network that still computes what was there before and
            hands it over as a last argument `old`; None where `start` serves there too.
    """

    form: str
    how: str
    start: Start
    within: Within | None = None


@torch.fx.wrap
def opened(z: Tensor, gain: float) -> Tensor:
    """Returns gain * sigmoid(z), as one step for torch.fx.

    Its quantiser knows that a sigmoid is between 0 and 1, and takes its argument to be so too
    where that comes from an operation that it does not know.
    """
    gate = z.sigmoid()
    return gate if gain == 1.0 else gain * gate


class Gate(nn.Module):
    """gain * sigmoid(z): the authors' gate at gain 1, an open gate for z = 0 at gain 2."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = 1.0

    def forward(self, z: Tensor) -> Tensor:
        """Returns the gate, of the shape of `z`."""
        return opened(z, self.gain)

    def extra_repr(self) -> str:
        """Returns the gain, the one thing that tells the two starts apart."""
        return f"gain={self.gain:g}"


class HardGate(Gate):
    """gain * hardsigmoid(z), the same with straight sides."""

    def forward(self, z: Tensor) -> Tensor:
        """Returns the gate, of the shape of `z`."""
        gate = F.relu6(z + 3) / 6
        return gate if self.gain == 1.0 else self.gain * gate


class Blend(nn.Module):
    """y = base(x) + g * (inner(x) - base(x)), where g is learnable and starts at 0.

    Args:
        inner: the mechanism; its output has to be finite, for 0 * NaN is NaN.
        base: what was there before: the module that the mechanism replaces, or None for x itself.
    """

    def __init__(self, inner: nn.Module, *, base: nn.Module | None = None) -> None:
        super().__init__()
        self.inner = inner
        self.base = base
        self.g = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """Returns the blend, of the shape and dtype of base(x)."""
        old = x if self.base is None else self.base(x)
        return torch.lerp(old, self.inner(x).to(old.dtype), self.g.to(old.dtype))


class BlendOld(nn.Module):
    """y = old + g * (inner(x) - old), where the caller gives `old`; learnable g, starts at 0.

    Args:
        inner: the mechanism; its output has to be finite, for 0 * NaN is NaN.
    """

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.g = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, old: Tensor) -> Tensor:
        """Returns the blend, of the shape and dtype of `old`."""
        return torch.lerp(old, self.inner(x).to(old.dtype), self.g.to(old.dtype))


class BlendPair(nn.Module):
    """y = base(x, other) + g * (inner(x, other) - base(x, other)); learnable g, starts at 0.

    Args:
        inner: the mechanism of two inputs.
        base: what was there before, of the same two inputs.
    """

    def __init__(self, inner: nn.Module, base: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.inner = inner
        self.base = base
        self.g = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        """Returns the blend, of the shape and dtype of base(x, other)."""
        old = self.base(x, other)
        return torch.lerp(old, self.inner(x, other).to(old.dtype), self.g.to(old.dtype))


def first(x: Tensor, other: Tensor) -> Tensor:
    """Returns `x`: what a gate that also looks at another value leaves as it was."""
    return x


def total(x: Tensor, other: Tensor) -> Tensor:
    """Returns x + other: what a fusion replaces."""
    return x + other


def zero(module: nn.Module, *layers: str) -> None:
    """Sets every parameter of the submodules named by their paths to zero."""
    for path in layers:
        for parameter in module.get_submodule(path).parameters():
            nn.init.zeros_(parameter)


def pair(module: nn.Module, layers: Iterable[str]) -> None:
    """Makes every second unit of the layers the negative of the one before it.

    Of a unit behind a ReLU and its negative one is alive whatever the input: without that, a few
    units are all dead for all inputs in many a start, and what feeds them never learns.
    """
    with torch.no_grad():
        for path in layers:
            for parameter in _layer(module, path).parameters(recurse=False):
                if parameter.is_meta:
                    continue
                units = 2 * (len(parameter) // 2)
                parameter[1:units:2] = -parameter[0:units:2]


def _layer(module: nn.Module, path: str) -> nn.Module:
    """The submodule of a path, or one without parameters where another variant has none there."""
    try:
        return module.get_submodule(path)
    except AttributeError:
        return nn.Identity()


def open_gates(module: nn.Module) -> None:
    """Rescales every Gate inside `module` so that it is exactly 1 where its argument is 0."""
    for child in module.modules():
        if isinstance(child, Gate):
            child.gain = 2.0


def native(
    *last_layers: str, how: str, alive: Callable[[nn.Module], None] | None = None
) -> Identity:
    """Returns the native form: `last_layers` become zero and every Gate opens.

    Args:
        *last_layers: paths of the submodules.
        how: the sentence for the card.
        alive: gives weights to what its authors start at zero and what lies before these layers.
    """

    def start(module: nn.Module, replaced: nn.Module | None) -> nn.Module:
        if alive is not None:
            alive(module)
        zero(module, *last_layers)
        open_gates(module)
        return module

    return Identity("native", how, start)


def blend(
    *,
    how: str = "y = x + g * (mechanism(x) - x), learnable g = 0",
    base: Callable[[nn.Module | None], nn.Module | None] = lambda replaced: replaced,
) -> Identity:
    """Returns the blend form; `base` makes what was there before from the module replaced."""

    def start(module: nn.Module, replaced: nn.Module | None) -> nn.Module:
        return Blend(module, base=base(replaced))

    return Identity("blend", how, start)


def replacing(
    *,
    how: str = "y = old + g * (mechanism(x) - old), learnable g = 0; the old operation stays",
    base: Callable[[nn.Module | None], nn.Module | None] = lambda replaced: replaced,
) -> Identity:
    """Returns the blend form of what replaces an operation that the network goes on computing.

    Args:
        how: the sentence for the card.
        base: makes what was there before from the module replaced, where the mechanism is built
            alone, outside of any network.
    """

    def start(module: nn.Module, replaced: nn.Module | None) -> nn.Module:
        return Blend(module, base=base(replaced))

    return Identity("blend", how, start, BlendOld)


def blend_pair(
    base: Callable[[Tensor, Tensor], Tensor] = first,
    *,
    how: str = "y = x + g * (mechanism(x, other) - x), learnable g = 0",
) -> Identity:
    """Returns the blend form of a mechanism of two inputs; `base` is `first` or `total`."""

    def start(module: nn.Module, replaced: nn.Module | None) -> nn.Module:
        return BlendPair(module, base)

    return Identity("blend", how, start)
