"""A head in a network: its feature maps are tapped where they are made, and wait for it here.

Each thread has its own, so that two forwards of one network at a time do not meet here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from attnsurgeon.attention.linked.chain import Fleeting, this_thread


class Mailbox(Fleeting):
    """Holds tapped values from the tap to the head of the same forward."""

    def clear(self) -> None:
        """Forgets everything."""
        self._held: dict[int, dict[int, Tensor]] = {}  # thread -> the values, by their number

    def put(self, index: int, value: Tensor) -> None:
        """Keeps a value."""
        self._held.setdefault(this_thread(), {})[index] = value

    def take(self, count: int) -> list[Tensor]:
        """Returns values 0 to count - 1, and forgets them.

        Raises:
            RuntimeError: one of them was not made since the last time.
        """
        held = self._held.pop(this_thread(), {})
        if len(held) < count:
            raise RuntimeError(
                "this classifier looks at feature maps that were not made in this forward; "
                "run the network from its pooling layer on, or whole"
            )
        return [held[index] for index in range(count)]


@dataclass
class Tap:
    """A hook that keeps a value for the head.

    Attributes:
        mailbox: where it waits.
        index: its number among the values of the head.
        copies: keep a copy, for the network goes on to change the value in place.
    """

    mailbox: Mailbox
    index: int
    copies: bool = False

    def keep(self, value: Tensor) -> None:
        """Puts the value where the head takes it from."""
        self.mailbox.put(self.index, value.clone() if self.copies else value)


class OutputTap(Tap):
    """Forward hook: keeps the module's output."""

    def __call__(self, module: nn.Module, args: Any, output: Tensor) -> None:
        """Keeps the output."""
        self.keep(output)


class InputTap(Tap):
    """Forward pre-hook: keeps the module's first input."""

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        """Keeps the input."""
        self.keep(args[0])


class Tapped(nn.Module):
    """A head, handed the maps that were tapped for it.

    Args:
        head: the mechanism.
        mailbox: where the maps wait.
        orders: for each map, the permutation that brings its channels to axis 1, or None.
        logits_first: hand over the network's own scores before the maps.
        old_last: hand them over after the maps.
    """

    def __init__(
        self,
        head: nn.Module,
        mailbox: Mailbox,
        orders: tuple[tuple[int, ...] | None, ...],
        *,
        logits_first: bool,
        old_last: bool,
    ) -> None:
        super().__init__()
        self.head = head
        self.mailbox = mailbox
        self.orders = orders
        self.logits_first = logits_first
        self.old_last = old_last

    def forward(self, x: Tensor) -> Tensor:
        """Returns the scores; `x` is the network's own, or what its classifier was given."""
        maps = self.mailbox.take(len(self.orders))
        ordered = [m if o is None else m.permute(o) for m, o in zip(maps, self.orders, strict=True)]
        before = [x] if self.logits_first else []
        after = [x] if self.old_last else []
        return self.head(*before, *ordered, *after)
