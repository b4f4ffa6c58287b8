"""Flow -> the module that is the encoder, where there is one, and the deepest map that it gives."""

from __future__ import annotations

from torch import fx, nn

from attnsurgeon.recording.record import Traced
from attnsurgeon.sites.flow import Flow, is_weighted, outermost_first
from attnsurgeon.sites.levels import Levels
from attnsurgeon.sites.rises import Rise, ways_back


def encoder_output(
    traced: Traced, flow: Flow, levels: Levels, sources: list[Rise], risen: set[fx.Node]
) -> fx.Node | None:
    """Returns the deepest map of the module in which the network goes down, where there is one: it
    rises nowhere, and holds most of the work before the rises and at least two steps down.
    """
    needed = ways_back([r.source for r in sources], set())
    working = [n for n in flow.nodes
               if n in needed and is_weighted(n) and levels.of[n] is not None]  # fmt: skip
    for call in outermost_first(traced.root):
        given = [n for n in call.outputs if n in flow.rank and levels.is_map(n)]
        inside = [n for n in working if call.start <= n.meta["order"] < call.end]
        from_image = any(n.op == "placeholder" for n in call.inputs)
        if call.parent is not None and risen.isdisjoint(given):
            found = _deepest_given(given, inside, working, from_image, needed, flow, levels)
            if found is not None:
                return found
    return _of_a_container(traced, flow, levels, working, needed, risen)


def _deepest_given(
    given: list[fx.Node],
    inside: list[fx.Node],
    working: list[fx.Node],
    from_image: bool,
    needed: set[fx.Node],
    flow: Flow,
    levels: Levels,
) -> fx.Node | None:
    """The deepest of the maps that a module gives, where most of the work before the rises and
    at least two steps down are in it.
    """
    if not given or 2 * len(_paths(inside)) <= len(_paths(working)):
        return None
    at = {level for n in inside if (level := levels.of[n]) is not None}
    depth = max(levels.of[n] or 0 for n in given)
    if max(at, default=0) > depth or (len(at) < 3 and not (from_image and len(at) > 0)):
        return None
    if from_image and len(at) < 2 and depth == 0:
        return None
    deepest = [n for n in given if levels.of[n] == depth]  # in whatever order they are given
    return max(deepest, key=lambda n: (n in needed, levels.work[n], flow.rank[n]))


def _of_a_container(
    traced: Traced,
    flow: Flow,
    levels: Levels,
    working: list[fx.Node],
    needed: set[fx.Node],
    risen: set[fx.Node],
) -> fx.Node | None:
    """The same of a module that is never called itself, whose layers are, one by one (a backbone
    kept beside the layers of a decoder); a list of modules says nothing of what is an encoder.
    """
    holders = {path for call in traced.calls for path in _above(call)} - set(traced.calls)
    depth = max((levels.of[n] or 0 for n in working), default=0)
    raised = {n.meta["call"].path for n in risen if n.op != "placeholder"}
    for holder in sorted(holders, key=len):
        if isinstance(traced.twin.get_submodule(holder), nn.ModuleList | nn.ModuleDict):
            continue
        if any(path.startswith(f"{holder}.") for path in raised):
            continue  # it holds the decoder as well (a YOLO's list of layers)
        held = {n for n in needed if n.op != "placeholder"
                and n.meta["call"].path.startswith(f"{holder}.")}  # fmt: skip
        given = [n for n in held if levels.is_map(n) and not held.issuperset(n.users)]
        inside = [n for n in working if n in held]
        image = any(n.op == "placeholder" for node in held for n in Flow.inputs(node))
        if depth == max((levels.of[n] or 0 for n in given), default=-1):
            found = _deepest_given(given, inside, working, image, needed, flow, levels)
            if found is not None:
                return found
    return None


def _above(path: str) -> list[str]:
    """The paths of the modules that hold one, the root left out."""
    parts = path.split(".")
    return [".".join(parts[:i]) for i in range(1, len(parts))]


def _paths(nodes: list[fx.Node]) -> set[tuple[str, int]]:
    """The operations in the forwards of modules, each once however often it runs."""
    return {(n.meta["call"].path, n.meta["event"].ordinal) for n in nodes}
