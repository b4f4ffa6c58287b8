"""Few channels -> few hidden units behind a ReLU, which may be dead for every input: what is done.

A start as identity is ours to choose: there the units come in pairs of which one is always alive
(`attention.identity.pair`), and there are at least two of them. The authors' own start stays as it
is, and what may be dead is said.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from attnsurgeon.attention.registry import Mechanism
from attnsurgeon.errors import MechanismError
from attnsurgeon.planning.cut import Request

_PAIR = 2  # of which one unit is alive
_FEW = 4  # of that many all are dead in about one of fifty random starts
Build = Callable[[Mapping[str, Any]], nn.Module]


def widened(
    request: Request, card: Mechanism, args: dict[str, Any], build: Build
) -> tuple[dict[str, Any], str]:
    """Returns the arguments with a reduction that leaves two hidden units, and a note for the plan.

    Args:
        request: what is asked; the arguments that the user gave are never replaced.
        card: of the mechanism.
        args: what it would be built with.
        build: builds it on meta.
    """
    if not card.bottleneck:
        return args, ""
    width = _width(card, args, build)
    given, ours = request.attn_args, request.init == "identity"
    if ours and width < _PAIR and {"reduction", "hidden"}.isdisjoint(given):
        wider, reduction = dict(args), card.args.get("reduction", 1)
        while _width(card, wider, build) < _PAIR and reduction > 1:
            reduction //= 2
            wider["reduction"] = reduction
        made = _width(card, wider, build)
        if made > width:
            less = f"instead of {width}" if width else "where the default leaves too few"
            return wider, f"{made} hidden units {less}: reduction={reduction} here"
    if 0 < width < (_PAIR if ours else _FEW):
        units = "unit" if width == 1 else "units"
        return args, f"its {width} hidden {units} behind a ReLU may be dead for every input"
    return args, ""


def _width(card: Mechanism, args: Mapping[str, Any], build: Build) -> int:
    """The units of the narrowest layer before a ReLU; 0 where the mechanism cannot be built."""
    try:
        part = build(args)
    except MechanismError:
        return 0
    layers = tuple(f"{path}.weight" for path in card.bottleneck)
    units = [len(p) for path, p in part.named_parameters() if path.endswith(layers)]
    return min(units, default=_FEW)
