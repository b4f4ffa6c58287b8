"""Survey + Weight -> Course: the MACs of a forward in the order in which they are spent.

A module's own MACs are spent where its call ends; of a module that is called several times, each
call has the share of what it makes. What a module that holds several parts computes itself cannot
be placed, and is told apart.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from attnsurgeon.cost.weight import Weight
from attnsurgeon.recording.record import Call
from attnsurgeon.sites.parts import ends
from attnsurgeon.sites.site import Site
from attnsurgeon.sites.survey import Survey


@dataclass(frozen=True)
class Stretch:
    """A part of a network between two values.

    Attributes:
        part: "encoder", "neck", "decoder", or "output" for what lies behind them.
        roles: what its last value is: "stem", "stage", "head", "neck", "decoder".
        stage: of that value, None where unknown.
        path, channels, resolution: of that value; "" and None behind the last one.
        macs: spent in it.
    """

    part: str
    roles: tuple[str, ...]
    stage: int | None
    path: str
    channels: int | None
    resolution: tuple[int, ...]
    macs: int


@dataclass(frozen=True)
class Course:
    """A network as its forward passes through it.

    Attributes:
        parts: in order; empty where none was found.
        at: path of a site -> MACs spent in the parts before its value, and for it.
        elsewhere: MACs of which it is not known in which part they are spent.
    """

    parts: tuple[Stretch, ...]
    at: dict[str, int]
    elsewhere: int


def course(found: Survey, weight: Weight, sites: Iterable[str]) -> Course:
    """Returns how the MACs of a network lie along its forward.

    Args:
        found: the network as it was surveyed.
        weight: of the same network.
        sites: paths of the sites to find; what the survey does not have is left out.
    """
    last: dict[int, tuple[str, tuple[str, ...], Site]] = {}
    for part, roles, site in ends(found):  # of what ends with one value, the first part has it
        last.setdefault(site.index, (part, tuple(roles), site))
    bounds = sorted(last)
    orders, spent, elsewhere = _spent(found, weight, bounds)
    total = [0]
    for macs in spent:
        total.append(total[-1] + macs)

    def until(order: int) -> int:
        return total[bisect.bisect_right(orders, order)]

    parts, before = [], 0
    for bound in bounds:
        part, roles, site = last[bound]
        size = tuple(site.resolution or ())
        parts.append(Stretch(part, roles, site.stage, site.path, site.channels, size,
                             until(bound) - before))  # fmt: skip
        before = until(bound)
    if parts and total[-1] > before:
        parts.append(Stretch("output", (), None, "", None, (), total[-1] - before))
    indices = {site.path: site.index for site in found.sites}
    at = {path: until(indices[path]) for path in sites if path in indices}
    return Course(tuple(parts), at, elsewhere)


def _spent(found: Survey, weight: Weight, bounds: list[int]) -> tuple[list[int], list[int], int]:
    """Returns when MACs are spent, how many each time, and how many at no known time."""
    spent: list[tuple[int, int]] = []
    elsewhere = 0
    for path, own in _own(weight):
        calls = found.traced.calls.get(path, [])
        if not own:
            continue
        sizes = [sum(math.prod(n.meta["shape"]) for n in call.outputs) for call in calls]
        if not sum(sizes):
            elsewhere += own
            continue
        for call, size in zip(calls, sizes, strict=True):
            share = own * size // sum(sizes)
            if _across(call, bounds):
                elsewhere += share
            else:
                spent.append((call.end - 1, share))
    spent.sort()
    return [order for order, _ in spent], [macs for _, macs in spent], elsewhere


def _own(weight: Weight) -> Iterator[tuple[str, int]]:
    """Yields the MACs of each module without those of the modules in it, each module once."""
    own = {path: c.macs for path, c in weight.by_module.items() if path not in weight.aliases}
    for path in [path for path in own if path]:
        own[path.rpartition(".")[0]] -= weight.by_module[path].macs
    yield from own.items()


def _across(call: Call, bounds: list[int]) -> bool:
    """Whether parts end inside a call, before its own last value."""
    first = bisect.bisect_left(bounds, call.start)
    return first < bisect.bisect_left(bounds, call.end - 1)
