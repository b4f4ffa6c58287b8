"""An inserted module -> the expression that builds it, and what is set on it afterwards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from attnsurgeon.attention.arguments import defaults, takes
from attnsurgeon.attention.own.applied import Function
from attnsurgeon.attention.own.card import Own
from attnsurgeon.attention.own.signature import resolved
from attnsurgeon.attention.registry import REPLACES_A_CONV, Mechanism, lookup
from attnsurgeon.errors import ModelError
from attnsurgeon.exporting.code.base import literal
from attnsurgeon.exporting.code.bundle import Bundle
from attnsurgeon.forwards.retype import original_class
from attnsurgeon.splicing.makeup import Makeup, class_of


@dataclass(frozen=True)
class Built:
    """How a file builds one module.

    Attributes:
        kind: its class in the file.
        source: the expression of its first argument: a number of channels, or a convolution.
        arguments: the text of the others.
        changes: attributes to set afterwards: (path, expression); "" of the path is the module.
    """

    kind: str
    source: str
    arguments: str
    changes: tuple[tuple[str, str], ...]

    def call(self, source: str = "") -> str:
        """Returns the expression, with another first argument where one is given."""
        parts = [p for p in (source or self.source, self.arguments) if p]
        return f"{self.kind}({', '.join(parts)})"


def core(
    live: nn.Module, record: Mapping[str, Any], conv: tuple[str, nn.Module] | None, bundle: Bundle
) -> Built:
    """Returns how the mechanism itself is built.

    Args:
        live: the mechanism in the network, without what was put around it.
        record: of its cut (`Cut.record`).
        conv: the expression of the convolution that it works on, and the same on meta.
        bundle: of the file.

    Raises:
        ModelError: it is not what its record says, or cannot be built by a call.
    """
    card = lookup(record["attn"])
    args = dict(record["args"])
    if isinstance(card, Own):
        return _own(live, card, record["channels"], record["rank"], args, bundle)
    source = str(record["channels"])
    origin: Any = record["channels"]
    if card.kind in REPLACES_A_CONV:
        assert conv is not None
        source, origin = conv
    with torch.device("meta"):
        fresh = card.make(origin, record["rank"], args)
    texts = [f"{n}={literal(_plain(v))}" for n, v in _given(card, args, record["rank"]).items()]
    kind = bundle.name_of(card.build, documented=True)
    return Built(kind, source, ", ".join(texts), changes(fresh, live, bundle))


def _own(
    live: nn.Module, card: Own, channels: int, rank: int, args: Mapping[str, Any], bundle: Bundle
) -> Built:
    """The same of code of the user's, which gets its arguments by their names."""
    if isinstance(live, Function):
        given = ", ".join(f"{n!r}: {literal(_plain(v))}" for n, v in live.given.items())
        return Built(bundle.name_of(Function), bundle.name_of(card.build), f"{{{given}}}", ())
    here = {"$C": channels, "$rank": rank}
    words = {name: word for name, word in card.found.items() if word in here}
    full = {n: resolved(v, here, n) for n, v in {**words, **args}.items()}
    kind = bundle.name_of(card.build)
    return Built(kind, "", ", ".join(f"{n}={literal(_plain(v))}" for n, v in full.items()), ())


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _given(card: Mechanism, args: Mapping[str, Any], rank: int) -> dict[str, Any]:
    """The arguments that are not what the constructor takes anyway."""
    known = defaults(card.build)
    given = {n: v for n, v in args.items() if _plain(v) != known.get(n)}
    if takes(card.build, "rank") and rank != 2:
        given["rank"] = rank
    return given


def changes(fresh: nn.Module, live: nn.Module, bundle: Bundle) -> tuple[tuple[str, str], ...]:
    """Returns what has to be set on a fresh module for it to be the live one, but for weights.

    Raises:
        ModelError: they differ in more than plain attributes and a blend around a part.
    """
    found: list[tuple[str, str]] = []
    _compare(fresh, live, "", found, bundle)
    return tuple(found)


def _compare(
    fresh: nn.Module, live: nn.Module, path: str, found: list[tuple[str, str]], bundle: Bundle
) -> None:
    if class_of(fresh) != class_of(live):
        inner = live._modules.get("inner")
        if inner is None or class_of(inner) != class_of(fresh) or live._modules.get("base"):
            raise ModelError(
                f"{class_of(live)} at {path or 'its top'} is not what {class_of(fresh)} becomes by"
                " setting attributes, so it cannot be written out"
            )
        _compare(fresh, inner, path, found, bundle)
        kind = bundle.name_of(original_class(live))
        found.append((path, f"{kind}(@)"))
        return
    then, now = (Makeup.of(_alone(m)).settings for m in (fresh, live))
    for name, value in now.items():
        if name not in then or then[name] != value:
            found.append((f"{path}.{name}" if path else name, literal(value)))
    if gone := [n for n in then if n not in now]:
        raise ModelError(f"{class_of(live)} has lost its {gone[0]}, so it cannot be written out")
    if [*fresh._modules] != [*live._modules]:
        raise ModelError(f"{class_of(live)} has other parts than a fresh one")
    for name, part in fresh._modules.items():
        twin, inside = live._modules[name], f"{path}.{name}" if path else name
        if part is not None and twin is not None:
            _compare(part, twin, inside, found, bundle)
        elif part is not None:
            found.append((inside, "None"))
        elif twin is not None:
            raise ModelError(f"{class_of(live)} has a {name} that a fresh one has not")


def _alone(module: nn.Module) -> nn.Module:
    """The module without its parts: its class and its plain attributes."""
    kind: Any = original_class(module)
    alone = kind.__new__(kind)
    nn.Module.__init__(alone)
    kept = {n: v for n, v in vars(module).items() if not n.startswith("_")}
    alone.__dict__.update(kept)
    return alone
