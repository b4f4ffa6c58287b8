"""Operated network and an input -> what every site did to this input, as named tensors."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import nn

from attnsurgeon.errors import UsageError
from attnsurgeon.given import takes_networks
from attnsurgeon.looking.told import Gates, SiteGates
from attnsurgeon.looking.watcher import Watcher
from attnsurgeon.looking.watching import refuse_replicas, run_once, watched
from attnsurgeon.recording.examples import arguments_of
from attnsurgeon.recording.record import MARK
from attnsurgeon.splicing.history import history
from attnsurgeon.splicing.selecting import Chosen, chosen, cuts_of, operated_in

__all__ = ["Gates", "SiteGates", "gates"]


@takes_networks()
def gates(
    model: nn.Module,
    x: Any,
    *,
    sites: Chosen = None,
    position: Sequence[float] | None = None,
) -> Gates:
    """Runs a network once and says what every site did to this input.

    The network runs in the mode that it is in, in the caller's autocast, and without gradients. Its
    modules are watched from outside: their code is what it is without, and afterwards nothing is
    left of it. Buffers that training mode changes are set back, and what is drawn meanwhile comes
    from other dice than the program's.

    Args:
        model: an operated network, or what stands around it.
        x: its input, a tensor; or what its forward is called with, as an example of `find_sites`.
        sites: as for `remove`: paths, patterns, Sites; None for all.
        position: of the picture `attention`: whose it is, as fractions of the axes, so that it
            means the same at every resolution; None for the centre, (0.5, 0.5).

    Returns:
        Of each module that ran what it did, by its path, in the order of their runs.

    Raises:
        UsageError: there is no attention in the network, or none is called that; or the position
            is none.
        ModelError: the network cannot be run on this input; or what a site did is not a number.
    """
    refuse_replicas(model)
    at = _checked(position)
    watchers = [Watcher(*asked, at) for asked in _asked(model, sites)]
    found: list[tuple[str, SiteGates]] = []
    with contextlib.ExitStack() as watching:
        for watcher in watchers:
            watcher.found = found
            watching.enter_context(watched(watcher.runs, watcher.note))
        run_once(model, arguments_of(x, model), lambda: _begin(found, watchers))
    ran = {site.module_path for _, site in found}
    return Gates(dict(found), [w.path for w in watchers if w.path not in ran])


def _asked(
    model: nn.Module, sites: Chosen
) -> Iterator[tuple[str, str, Mapping[str, Any], nn.Module]]:
    """Yields of each module that is asked for the prefix of the network that was operated, the path
    in it, the record of the cut and the module. One network has no prefix, wherever it stands.
    """
    operated_in(model)  # which says what to do where there is none
    hosts = [(path, module) for path, module in model.named_modules() if history(module)]
    unknown: UsageError | None = None
    taken = False
    for where, network in hosts:
        try:
            paths = chosen(network, sites)
        except UsageError as error:
            unknown = error
            continue
        taken = True
        prefix = f"{where}." if where and len(hosts) > 1 else ""
        cuts = cuts_of(network)
        yield from ((prefix, path, cuts[path], _part(network, path)) for path in paths)
    if unknown is not None and not taken:
        raise unknown


def _begin(found: list[tuple[str, SiteGates]], watchers: Sequence[Watcher]) -> None:
    found.clear()
    for watcher in watchers:
        watcher.count = 0


def _part(network: nn.Module, path: str) -> nn.Module:
    try:
        part = network.get_submodule(path)
    except AttributeError:
        part = None
    found = None if part is None else next((m for m in part.modules() if MARK in vars(m)), None)
    if found is None:
        what = "nothing" if part is None else f"a {type(part).__name__}"
        raise UsageError(
            f"where the attention {path} was, there is {what}",
            "`attnsurgeon.audit` says what has become of the inserted modules",
        )
    return found


def _checked(position: Sequence[float] | None) -> tuple[float, ...] | None:
    if position is None:
        return None
    try:
        found = tuple(float(value) for value in position)
    except (TypeError, ValueError):
        found = ()
    if not found or not all(math.isfinite(value) and 0 <= value <= 1 for value in found):
        raise UsageError(
            f"position={position!r} is not a position",
            "give a fraction of each axis, from 0 to 1: position=(0.5, 0.5) is the centre",
        )
    return found
