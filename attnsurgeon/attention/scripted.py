"""A mechanism -> TorchScript, whatever its code is: traced in both modes, under its own names.

torch.jit.script reads source, and mechanisms are written in more of Python than it knows. Their
forward has no branches that depend on numbers, so a trace says all that they do.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from attnsurgeon.attention.heads.tapped import Tapped

MODES = (("evaluated", False), ("trained", True))
Method = tuple[Callable[..., Any], Sequence[Any]]  # (module, *args) -> what it returns; args


def traced(module: nn.Module, args: Sequence[Any]) -> Any:
    """Returns the module as one of TorchScript, with the same names, for every batch and size.

    Args:
        module: of which class and modes are changed meanwhile; it is to be a copy's.
        args: of its forward, to trace it with.
    """
    made = _traced(module, {"forward": (type(module).forward, args)})
    names = ", ".join(f"a{i}" for i in range(len(args)))
    made.define(
        f"def forward(self, {names}):\n"
        "    if self.training:\n"
        f"        return self.forward_trained({names})\n"
        f"    return self.forward_evaluated({names})\n"
    )
    return made


def _traced(module: nn.Module, methods: Mapping[str, Method]) -> Any:
    """Returns a script module that has each method twice, `NAME_trained` and `NAME_evaluated`."""
    kind, modes = type(module), {m: m.training for m in module.modules()}
    body = {
        f"{name}_{suffix}": _in_mode(method, mode)
        for name, (method, _) in methods.items()
        for suffix, mode in MODES
    }
    inputs = {
        f"{n}_{suffix}": tuple(args) for n, (_, args) in methods.items() for suffix, _ in MODES
    }
    module.__class__ = type(kind.__name__, (kind,), body)
    try:
        with _unmoved(module), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made: Any = torch.jit.trace_module(module, inputs, check_trace=False)
    finally:
        module.__class__ = kind
        for each, mode in modes.items():
            each.training = mode
    return made.train(module.training)


def _in_mode(method: Callable[..., Any], mode: bool) -> Callable[..., Any]:
    return lambda self, *args: method(self.train(mode), *args)


@contextlib.contextmanager
def _unmoved(module: nn.Module) -> Iterator[None]:
    """Lets running statistics and generators be what they were."""
    before = [(buffer, buffer.clone()) for buffer in module.buffers()]
    devices = {b.device.index for b in module.parameters() if b.is_cuda}
    with torch.random.fork_rng(sorted(d for d in devices if d is not None)):
        yield
    with torch.no_grad():
        for buffer, value in before:
            buffer.copy_(value)


class Handed(nn.Module):
    """What the places of one chain hand on in TorchScript, where it is one for all threads: who
    runs a network in several gives each a copy.
    """

    def __init__(self) -> None:
        super().__init__()
        self.held: Any = torch.jit.Attribute([], list[Tensor])

    def forward(self) -> list[Tensor]:
        """Returns the tensors."""
        return self.held


class Kept(nn.Module):
    """The maps that were tapped for a head, in TorchScript; again one for all threads."""

    def __init__(self) -> None:
        super().__init__()
        self.held: Any = torch.jit.Attribute({}, dict[int, Tensor])

    def forward(self, index: int, value: Tensor, copies: bool) -> Tensor:
        """Keeps a map, or a copy of it, and returns it."""
        self.held[index] = value.clone() if copies else value
        return value


class Head(nn.Module):
    """A head that takes its maps from where they were kept: a `Tapped` for TorchScript.

    Args:
        head: a script module with a method `of`, of the scores and the maps.
        kept: a script module of `Kept`.
        count: how many maps.
    """

    def __init__(self, head: Any, kept: Any, count: int) -> None:
        super().__init__()
        self.head = head
        self.kept = kept
        self.count = count

    def forward(self, x: Tensor) -> Tensor:
        """Returns the scores."""
        maps = [self.kept.held[i] for i in range(self.count)]
        self.kept.held.clear()
        return self.head.of(x, maps)


def headed(tapped: Tapped, args: Sequence[Any], kept: Any) -> Head:
    """Returns what stands for a head in a network.

    Args:
        tapped: the head there; as for `traced`.
        args: what its own module is handed in a forward.
        kept: a script module of `Kept`, which its taps share.
    """
    made = traced(tapped.head, args)
    maps = [
        f"maps[{i}]" + ("" if order is None else f".permute({list(order)})")
        for i, order in enumerate(tapped.orders)
    ]
    given = [*["x"] * tapped.logits_first, *maps, *["x"] * tapped.old_last]
    made.define(
        "def of(self, x: Tensor, maps: List[Tensor]):\n"
        f"    return self.forward({', '.join(given)})\n"
    )
    return Head(made, kept, len(maps)).train(tapped.training)


def linked(attention: nn.Module, seen: Sequence[tuple[Tensor, Any]]) -> Any:
    """Returns a linked mechanism as a script module, with the methods `first` and `next`.

    Both return the output and the tensors of the state, in one list; `next` takes such tensors.

    Args:
        attention: as for `traced`.
        seen: (input, state) of its steps in a forward, to trace it with; the state of the first
            place is None, and what no place does has no method.
    """
    steps = {"next" if state is not None else "first": (x, state) for x, state in reversed(seen)}
    methods: dict[str, Method] = {}
    counts: dict[str, int] = {}
    for name, (x, state) in steps.items():
        leaves, spec = pytree.tree_flatten(state)
        given = [leaf for leaf in leaves if isinstance(leaf, Tensor)]

        def step(
            self: Any, x: Tensor, *given: Tensor, leaves: Any = leaves, spec: Any = spec
        ) -> Any:
            own = iter(given)
            whole = [next(own) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
            y, handed = self.step(x, pytree.tree_unflatten(whole, spec))
            return (y, *(t for t in pytree.tree_leaves(handed) if isinstance(t, Tensor)))

        with torch.no_grad():
            counts[name] = len(step(attention, x, *given))
        methods[name] = step, (x, *given)
    made = _traced(attention, methods)
    for name, (_, args) in methods.items():
        takes = ", state: List[Tensor]" if name == "next" else ""
        given = "".join(f", state[{i}]" for i in range(len(args) - 1))
        made.define(
            f"def {name}(self, x: Tensor{takes}) -> List[Tensor]:\n"
            "    if self.training:\n"
            f"        made = self.{name}_trained(x{given})\n"
            "    else:\n"
            f"        made = self.{name}_evaluated(x{given})\n"
            f"    return [{', '.join(f'made[{i}]' for i in range(counts[name]))}]\n"
        )
    return made


class First(nn.Module):
    """The first place of a chain: a `Link` for TorchScript.

    Args:
        attention: of `linked`.
        handed: what the places share, a script module.
        last: whether it is the last as well.
    """

    def __init__(self, attention: Any, handed: Any, *, last: bool) -> None:
        super().__init__()
        self.attention = attention
        self.handed = handed
        self.last = last

    def forward(self, x: Tensor) -> Tensor:
        """Returns the attention's output."""
        made = self.attention.first(x)
        self.handed.held = made[:0] if self.last else made[1:]
        return made[0]


class Next(First):
    """A further place, given what the place before has handed on."""

    def forward(self, x: Tensor) -> Tensor:
        """Returns the attention's output."""
        made = self.attention.next(x, self.handed.held)
        self.handed.held = made[:0] if self.last else made[1:]
        return made[0]
