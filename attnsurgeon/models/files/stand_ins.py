"""A name in a pickle, and an object of that name -> what is kept of them: no code, only words.

A list of allowed classes would not make a pickle safe: what is allowed may be *called* by the file,
with arguments of its choice, and the constructors of networks are not harmless (a YOLO evaluates
texts of its configuration). So no name is ever looked up. Each gets a stand-in that keeps what the
file tells it, and whatever the file does with it, nobody's code runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from attnsurgeon.models.files.limits import LIMITS, Unreadable

KINDS = ("_parameters", "_buffers", "_modules")  # where an nn.Module keeps what it has


@dataclass(frozen=True, eq=False)
class Name:
    """A function or class that a file names.

    Attributes:
        called: its full name.
        build: makes a plain value of what the file would call it with; None of all that is not
            plain.
        dtype: of a kind of storage.
    """

    called: str
    build: Callable[..., Any] | None = None
    dtype: Any = None


@dataclass(eq=False)
class StandIn:
    """An object of a class that is not looked up.

    Attributes:
        called: the full name of the class, or of the function that was to make it.
        args: what it was to be made with.
        state: what it was to be given afterwards, as it stands in the file.
        attributes: of an object, what it was to hold by name.
        items: of a mapping, its items.
        elements: of a list, its elements.
    """

    called: str
    args: tuple[Any, ...] = ()
    state: Any = None
    attributes: dict[Any, Any] = field(default_factory=dict)
    items: dict[Any, Any] = field(default_factory=dict)
    elements: list[Any] = field(default_factory=list)

    def __repr__(self) -> str:
        # Not what it holds: a file can make that longer than any memory, out of a few bytes.
        return f"<{self.called[:200]!r}>"

    def set_state(self, state: Any) -> None:
        """Keeps what a file would set on the object."""
        self.state = state
        parts = state if isinstance(state, tuple) and len(state) == 2 else (state,)
        for part in parts:  # of a class with slots, a pair
            if isinstance(part, dict):
                self.attributes = {**self.attributes, **part} if self.attributes else part

    @property
    def kind(self) -> str:
        """The name of its class alone."""
        return self.called.rpartition(".")[2]

    @property
    def is_scripted(self) -> bool:
        """Whether it is a module of a TorchScript archive, which are of classes of their own."""
        return self.called.startswith("__torch__.") and bool(self.attributes)

    @property
    def is_network(self) -> bool:
        """Whether it stands for an nn.Module."""
        return self.is_scripted or all(isinstance(self.attributes.get(k), dict) for k in KINDS)

    @property
    def children(self) -> dict[str, StandIn]:
        """Of a network, its modules by name."""
        held = self.attributes if self.is_scripted else self.attributes["_modules"]
        return {
            name: child
            for name, child in held.items()
            if isinstance(name, str) and isinstance(child, StandIn) and child.is_network
        }

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Of a network, the parameters and persistent buffers of the module itself."""
        if self.is_scripted:  # which does not tell buffers that are in no state dict
            held = self.attributes
        else:
            left_out = self.attributes.get("_non_persistent_buffers_set")
            left_out = left_out if isinstance(left_out, (set, frozenset, list, tuple)) else ()
            buffers = self.attributes["_buffers"].items()
            kept = {name: value for name, value in buffers if name not in left_out}
            held = {**self.attributes["_parameters"], **kept}
        return {
            name: value
            for name, value in held.items()
            if isinstance(name, str) and isinstance(value, Tensor)
        }


def modules_of(network: StandIn) -> Iterator[tuple[str, StandIn]]:
    """Yield path and module of a network, itself first, in the order of its state dict.

    Raises:
        Unreadable: it has more modules than the limits allow; it may contain itself.
    """
    count = 0
    waiting: list[tuple[str, int, StandIn]] = [("", 0, network)]
    while waiting:
        path, depth, module = waiting.pop()
        count += 1
        if depth > LIMITS.depth or count > LIMITS.entries or len(path) > LIMITS.name_length:
            raise Unreadable("its modules go too deep: a network may not contain itself")
        yield path, module
        prefix = f"{path}." if path else ""
        children = list(module.children.items())
        waiting += [(prefix + name, depth + 1, child) for name, child in reversed(children)]


def state_of(network: StandIn) -> dict[str, Any]:
    """Return the tensors of a network by the keys that its own state dict would have."""
    return {
        f"{path}.{name}" if path else name: tensor
        for path, module in modules_of(network)
        for name, tensor in module.tensors.items()
    }


def as_mapping(value: Any) -> Mapping[Any, Any] | None:
    """Return what a value holds by name: a dict, an object's items, or its attributes."""
    if isinstance(value, dict):
        return value
    if isinstance(value, StandIn) and not value.is_network:
        return value.items or value.attributes or None
    return None
