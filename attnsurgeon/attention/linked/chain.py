"""What the sites of one chain hand on to each other within one forward.

The state is a plain attribute of a plain object: it is in no state dict, no copy and no pickle.
Each thread has its own, so that two forwards of one network at a time do not meet in it.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch._C import _autograd

from attnsurgeon.errors import ModelError

Step = Callable[[Tensor, Any], tuple[Tensor, Any]]


class Fleeting:
    """Holds values of one forward; a copy of it, or one read from a pickle, starts without them."""

    kept: tuple[str, ...] = ()  # attributes that a copy has too

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forgets everything."""
        raise NotImplementedError

    def __deepcopy__(self, memo: dict[int, Any]) -> Fleeting:
        # Who shared this object shares the copy: copy.deepcopy keeps the memo.
        twin = type(self).__new__(type(self))
        twin.__setstate__(self.__getstate__())
        return twin

    def __getstate__(self) -> tuple[dict[str, Any]]:
        return ({name: getattr(self, name) for name in self.kept},)  # never empty: see pickle

    def __setstate__(self, state: tuple[dict[str, Any]]) -> None:
        self.__dict__.update(*state)
        self.clear()


class _Note:
    """Something that the graph of a forward holds, so that it exists as long as the graph."""

    def __init__(self, content: tuple[Any, ...], y: Tensor) -> None:
        self.content = content
        node: Any = y.grad_fn
        if node is not None:
            node.metadata.setdefault(__name__, []).append(self)


class Chain(Fleeting):
    """Hands the state of each place of a chain to the next place, in execution order.

    Attributes:
        places: how many there are; 0 where that is not known.
        present: which of them are here. A copy knows those that were copied with it.
    """

    kept = ("places",)

    def __init__(self) -> None:
        self.places = 0
        self.present: set[int] = set()
        super().__init__()

    def __setstate__(self, state: tuple[dict[str, Any]]) -> None:
        super().__setstate__(state)
        self.present = set()  # each Link joins

    def clear(self) -> None:
        """Forgets the last forward."""
        # thread -> what the place that ran last handed on: (backward, place, state, versions)
        self._last: dict[int, tuple[int, int, Any, tuple[int, ...]]] = {}
        self._again: dict[int, Callable[[], _Note | None]] = {}  # in recomputations
        self._notes: dict[int, list[weakref.ref[_Note]]] = {}  # place -> what it was given

    def run(self, place: int, step: Step, x: Tensor) -> Tensor:
        """Returns the output of `step`, given what the place before handed on.

        The first place starts anew; so does a block that is run without the one before it. In a
        recomputation of activation checkpointing each place gets what it got in the forward.

        Args:
            place: from 0, in execution order.
            step: (x, state or None) -> (output, state for the next place).
            x: the input.

        Raises:
            RuntimeError: the recomputation is one through which no gradient flows back; or what was
                handed on has been changed in place since.
        """
        backward, thread = _backward(), this_thread()
        given = self._given(place, x, backward, thread) if place else None
        y, handed = step(x, given)
        if backward:
            # What a recomputation makes belongs to its own graph, and must not keep that alive.
            note = _Note((backward, place, handed, versions(handed)), y)
            self._again[thread] = weakref.ref(note) if y.requires_grad else lambda: note
            return y
        if place and _may_be_recomputed() and y.requires_grad:
            notes = self._notes.setdefault(place, [])
            notes.append(weakref.ref(_Note((_mark(x), given), y), notes.remove))
        if place == self.places - 1:  # nothing is kept, for the state holds the forward's graph
            self._last.pop(thread, None)
        else:
            self._last[thread] = (0, place, handed, versions(handed))
        return y

    def _given(self, place: int, x: Tensor, backward: int, thread: int) -> Any:
        """Returns what the place before handed on, None where it did not run."""
        last = self._last.get(thread)
        if backward:
            note = self._again[thread]() if thread in self._again else None
            last = note.content if note else None
        if last is not None and last[:2] == (backward, place - 1):
            now = versions(last[2])
            if last[3] and now and last[3] != now:  # compiled code counts nothing
                raise RuntimeError(
                    f"what place {place - 1} of a chain of attention handed on was changed in place"
                )
            return last[2]
        return self._noted(place, x) if backward else None

    def _noted(self, place: int, x: Tensor) -> Any:
        """Returns what the place got in the forward that is being recomputed."""
        notes = [ref() for ref in list(self._notes.get(place, ()))]
        alive = [note for note in notes if note and note.content[0].device == x.device]
        if not alive and torch.is_grad_enabled():
            raise RuntimeError(
                "linked attention loses its gradients under re-entrant checkpointing; "
                "checkpoint with use_reentrant=False"
            )
        if len(alive) > 1:  # several forwards before one backward: told apart by their inputs
            mark = _mark(x)
            alive.sort(key=lambda note: float((note.content[0] - mark).abs()), reverse=True)
        return alive[-1].content[1] if alive else None


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
        """Returns the output, as the next place of a chain of its own.

        Raises:
            RuntimeError: activation checkpointing repeats a call.
        """
        if _backward():
            raise RuntimeError(
                "linked attention that counts its calls cannot tell which one is recomputed; "
                "give each place a Link of its own"
            )
        y = self.chain.run(self._place, self.step, x)
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
        tied: the attention is that of all places.
    """

    tied = False  # of those that were pickled before it was written down

    def __init__(self, attention: Linked, chain: Chain, place: int, *, tied: bool = False) -> None:
        super().__init__()
        self.attention = attention
        self.tied = tied
        self.join(chain, place)

    def join(self, chain: Chain, place: int) -> None:
        """Makes it a place of a chain."""
        self.chain = chain
        self.place = place
        chain.places = max(chain.places, place + 1)
        chain.present.add(place)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.chain.present.add(self.place)  # a copy is a place of the copied chain

    def forward(self, x: Tensor) -> Tensor:
        """Returns the attention's output, given what the place before handed on.

        Raises:
            ModelError: it was copied out of its chain, or its attention is no longer that of the
                other places.
        """
        if self.place and self.place - 1 not in self.chain.present:
            raise ModelError(
                f"place {self.place} of a chain of attention was copied without place"
                f" {self.place - 1}, which hands on to it, and would compute something else",
                "copy the network, or all modules of the chain at once; PEFT's modules_to_save"
                " copies one by one",
            )
        if self.tied and not isinstance(self.attention, Linked):
            raise ModelError(
                f"the attention that all {self.chain.places} places of a chain share was replaced"
                f" by a {type(self.attention).__name__} at place {self.place} alone",
                "PEFT's modules_to_save cannot name it; train it with the network, or leave it"
                " frozen",
            )
        return self.chain.run(self.place, self.attention.step, x)

    def extra_repr(self) -> str:
        """Returns the place."""
        return f"place={self.place}"


def versions(state: Any) -> tuple[int, ...]:
    """How often each tensor of a state has been changed in place, where torch counts that."""
    if torch.compiler.is_compiling():
        return ()
    tensors = state if isinstance(state, (tuple, list)) else (state,)
    counted = (t for t in tensors if isinstance(t, Tensor) and not t.is_inference())
    return tuple(tensor._version for tensor in counted)


def _backward() -> int:
    """Returns which backward pass is running, in which checkpointing runs forwards again; or 0."""
    return 0 if torch.compiler.is_compiling() else torch._C._current_graph_task_id() + 1


def this_thread() -> int:
    """Returns a number for this thread: 0 for the main one, and for compiled code."""
    if torch.compiler.is_compiling():
        return 0
    ident = threading.get_ident()
    return 0 if ident == threading.main_thread().ident else ident


def _may_be_recomputed() -> bool:
    """Whether something stands between this forward and the tensors that its backward needs."""
    if torch.compiler.is_compiling():
        return False
    return _autograd._top_saved_tensors_default_hooks(False) is not None


def _mark(x: Tensor) -> Tensor:
    """Returns a number by which to know an input again."""
    return x.detach().mean(dtype=torch.float32)
