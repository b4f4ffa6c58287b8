"""What a forward decides by sizes, as its generated code tests it again at every call.

A trace follows one way. Where no other was followed, `decided` stands in the code and raises at a
size that leads elsewhere; where the other way only raises, `required` stands there and raises the
same. Where both ways are known, the code branches (`branches.py`).
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Sized
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx

_VALUE = re.compile("\ue000(.*?)\ue001")  # a value in a text, by the name of its node


@fx.wrap  # what is traced again looks at the sizes of its own calls
def decided(condition: Any, outcome: bool, where: str) -> None:
    """Raises where a condition has another outcome than at the size that was operated on."""
    if bool(condition) != outcome:
        raise RuntimeError(
            f"at this input size the forward takes another way ({where}) than at the size that "
            "the attention was inserted for, and that way could not be followed; give inputs of "
            "a size like that one, or insert the attention at this size"
        )


@fx.wrap
def required(condition: Any, outcome: bool, error: str, text: str, *values: Any) -> None:
    """Raises what the forward itself raises where a condition has another outcome."""
    if bool(condition) != outcome:
        kind = resolved(error)
        raise kind(text.format(*values)) if text else kind()


@fx.wrap
def counted(values: Sized, count: int, where: str) -> None:
    """Raises where a loop over the parts of a tensor would have another number of rounds."""
    if len(values) != count:
        raise RuntimeError(
            f"at this input size there are {len(values)} parts to go over ({where}), and the "
            f"attention was inserted for {count}; insert it at this size"
        )


@fx.wrap
def is_tensor(value: Any, where: str) -> None:
    """Raises where a forward that asked whether it is given a tensor is given something else."""
    if not isinstance(value, Tensor):
        raise TypeError(
            f"this module is given a {type(value).__name__} and would take another way ({where}); "
            "the attention was inserted for a tensor: insert it again for this form"
        )


def resolved(name: str) -> type[Exception]:
    """The class of an error, by "module:name"."""
    home, _, attribute = name.partition(":")
    return getattr(importlib.import_module(home), attribute)


@dataclass(frozen=True)
class Decision:
    """A branch that a trace has taken by a size.

    Attributes:
        test: the node that tests it again.
        condition: the node that was looked at.
        outcome: how it turned out.
        where: file and line.
    """

    test: fx.Node
    condition: fx.Node
    outcome: bool
    where: str


@dataclass(frozen=True)
class Raised:
    """What a forward raises on one of its ways: the error's class and text.

    Attributes:
        error: the class, as `resolved` finds it.
        text: with a pair of braces for each value.
        values: the nodes of these values.
    """

    error: str
    text: str
    values: tuple[fx.Node, ...]

    @classmethod
    def of(cls, error: Exception, graph: fx.Graph) -> Raised:
        """What the generated code raises in place of an error of a trace."""
        kind = type(error)
        name = f"{kind.__module__}:{kind.__qualname__}"
        text = str(error) if error.args else ""
        try:
            same = resolved(name) is kind and str(kind(text) if text else kind()) == text
        except Exception:  # a class of the user's own may want anything, or be found nowhere
            same = False
        parts = _VALUE.split(text)
        plain = "{}".join(p.replace("{", "{{").replace("}", "}}") for p in parts[::2])
        nodes = {node.name: node for node in graph.nodes}
        values = tuple(nodes[name] for name in parts[1::2])
        return cls(name if same else "builtins:RuntimeError", plain, values)

    def instead_of(self, node: fx.Node) -> None:
        """Lets a test raise this error; what its text shows is computed before."""
        made: dict[str, fx.Node] = {}
        for earlier in node.graph.nodes:
            if earlier is node:
                break
            made[earlier.name] = earlier

        def here(value: fx.Node) -> fx.Node:
            if value.name not in made:
                with node.graph.inserting_before(node):
                    made[value.name] = node.graph.node_copy(value, here)
            return made[value.name]

        values = [here(value) for value in self.values]
        node.target = required
        node.args = (*node.args[:2], self.error, self.text, *values)


def in_text(node: fx.Node) -> str:
    """How a value stands in a text until it is known."""
    return f"\ue000{node.name}\ue001"
