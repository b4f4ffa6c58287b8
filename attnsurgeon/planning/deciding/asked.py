"""What a kind of attention is asked, and what it answers: a draft of the cut."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import fx, nn

from attnsurgeon.attention.registry import Mechanism
from attnsurgeon.planning.cut import Cut, Request
from attnsurgeon.planning.deciding.operand import Impossible, Value, value_at
from attnsurgeon.planning.place import Place, Refusal
from attnsurgeon.sites.survey import Survey

INSERTIONS = ("insert-after", "insert-before")


@dataclass(frozen=True)
class Asked:
    """One request, and what is known where it is decided.

    Attributes:
        request: the site, the mechanism, its arguments and its start.
        card: of the mechanism.
        action: what is done there.
        survey: the network.
        earlier: the cuts that are decided already.
    """

    request: Request
    card: Mechanism
    action: str
    survey: Survey
    earlier: Sequence[Cut]

    @property
    def target(self) -> fx.Node:
        """The value of the site, or the operation that makes it."""
        return self.survey.nodes[self.request.site.path]

    def value(self, node: fx.Node) -> Value:
        """The value that the mechanism would work on at a node."""
        return value_at(node, self.card, self.survey.traced)


@dataclass(frozen=True)
class Draft:
    """A cut before its module is built and named.

    Attributes:
        place: how the network is cut.
        value: what the attention works on.
        facts: what the mechanism's arguments may follow from, see `Mechanism.site_args`.

    The others are those of `Cut`.
    """

    place: Place
    value: Value
    facts: Mapping[str, Any] = field(default_factory=dict)
    conv: nn.Module | None = None
    keeps_old: bool = False
    clones: bool = False
    removes: tuple[str, ...] = ()
    taps: tuple[Place, ...] = ()
    tapped: tuple[str, ...] = ()
    scope: str = ""
    chain: str = ""
    link: int = 0


def possible(place: Place | Refusal) -> Place:
    """The place that was found.

    Raises:
        Impossible: there is none.
    """
    if isinstance(place, Refusal):
        raise Impossible(place.reason)
    return place


def check_own(survey: Survey, path: str) -> None:
    """Refuses to take away parameters that another module has too."""
    twin = survey.traced.twin
    own = {id(p) for p in twin.get_submodule(path).parameters()}
    inside = f"{path}."
    for name, parameter in twin.named_parameters(remove_duplicate=False):
        if id(parameter) in own and not name.startswith(inside):
            raise Impossible(f"its parameters are also {name}, and would be missing there")
