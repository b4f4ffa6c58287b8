"""What the sites of one chain hand on to each other within one forward.

The state is a plain attribute of a plain object: it is in no state dict, no copy and no pickle.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class Fleeting:
    """Holds values of one forward; a copy of it, or one read from a pickle, starts empty."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forgets everything."""
        raise NotImplementedError

    def __deepcopy__(self, memo: dict[int, Any]) -> Fleeting:
        # Who shared this object shares the copy: copy.deepcopy keeps the memo.
        return type(self)()

    def __getstate__(self) -> dict[str, Any]:
        return {"empty": True}  # an empty state would skip __setstate__

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.clear()


class Chain(Fleeting):
    """Hands the state of each place of a chain to the next place, in execution order."""

    def clear(self) -> None:
        """Forgets the last forward."""
        self._place = -1  # of the site that ran last
        self._state: Any = None
        self._given: dict[int, tuple[Any, bool]] = {}  # place -> (state, was autograd on)

    def enter(self, place: int) -> Any:
        """Returns what the place before handed on; None at the first place, which starts anew.

        A block run alone, without the one before it, starts anew too. In a recomputation of
        activation checkpointing, each place gets again what it got in the forward.

        Raises:
            RuntimeError: the recomputation is one through which no gradient flows back.
        """
        if _recomputing():
            state, recorded = self._given.get(place, (None, True))
            if not recorded and torch.is_grad_enabled():
                raise RuntimeError(
                    "linked attention loses its gradients under re-entrant checkpointing; "
                    "checkpoint with use_reentrant=False"
                )
            return state
        state = self._state if 0 < place == self._place + 1 else None
        if place == 0:
            self._given.clear()
        self._given[place] = state, torch.is_grad_enabled()
        return state

    def leave(self, place: int, state: Any) -> None:
        """Keeps what this place hands on."""
        if not _recomputing():
            self._place, self._state = place, state


class Linked(nn.Module):
    """Base of attention that works in a chain: `step` takes a state and hands one on.

    Alone, without a network, every call is the next place of one chain until `reset`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.chain = Chain()
        self._place = 0

    def step(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Returns the output and the state for the next place; `state` is None at the first."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Returns the output, as the next place of a chain of its own."""
        y, state = self.step(x, self.chain.enter(self._place))
        self.chain.leave(self._place, state)
        self._place += 1
        return y

    def reset(self) -> None:
        """Makes the next call the first place of a chain."""
        self.chain.clear()
        self._place = 0


class Link(nn.Module):
    """One place of a chain in a network.

    Args:
        attention: the mechanism; the same one at every place where the chain shares it.
        chain: what the places share.
        place: from 0, in execution order.
    """

    def __init__(self, attention: Linked, chain: Chain, place: int) -> None:
        super().__init__()
        self.attention = attention
        self.chain = chain
        self.place = place

    def forward(self, x: Tensor) -> Tensor:
        """Returns the attention's output, given what the place before handed on."""
        y, state = self.attention.step(x, self.chain.enter(self.place))
        self.chain.leave(self.place, state)
        return y

    def extra_repr(self) -> str:
        """Returns the place."""
        return f"place={self.place}"


def _recomputing() -> bool:
    """Whether a backward pass is running, in which checkpointing runs forwards again."""
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1
