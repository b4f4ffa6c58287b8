"""Mechanisms of installed packages: entry points of the group `attnsurgeon.mechanisms`.

    [project.entry-points."attnsurgeon.mechanisms"]
    ema = "my_package.attention:EMA"

A package says there what it offers under which name, so that a name is enough, as with timm's
registry: whoever installs the package has allowed it.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from attnsurgeon.attention.own.card import Own, own_card
from attnsurgeon.attention.own.trial import quoted
from attnsurgeon.errors import MechanismError

GROUP = "attnsurgeon.mechanisms"
_CARDS: dict[str, tuple[EntryPoint, Own]] = {}


def plugins() -> Mapping[str, EntryPoint]:
    """Returns name -> entry point of all installed packages; nothing of them is imported."""
    return {point.name: point for point in entry_points(group=GROUP)}


def plugin(name: Any) -> Own | None:
    """Returns the card of an installed package's mechanism, or None where there is none.

    Raises:
        MechanismError: the package cannot be imported, or what it names is no attention.
    """
    point = plugins().get(name) if isinstance(name, str) and ":" not in name else None
    if point is None:
        return None
    before, card = _CARDS.get(name, (None, None))
    if card is None or before != point:
        card = own_card(name, _loaded(point), file=point.value)
        _CARDS[name] = point, card
    return card


def _loaded(point: EntryPoint) -> Any:
    try:
        return point.load()
    except (Exception, SystemExit) as error:  # a stranger's package may raise anything
        package = point.dist.name if point.dist is not None else point.value
        raise MechanismError(
            f"the mechanism {point.name!r} of {package} cannot be imported: {quoted(error)}",
            f"it is named as {point.value!r}; install that package again, or remove it",
        ) from error
