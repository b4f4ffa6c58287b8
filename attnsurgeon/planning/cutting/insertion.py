"""Value -> the best place for attention on it: a forward that is rewritten, or a hook."""

from __future__ import annotations

from torch import fx

from attnsurgeon.planning.cutting.hooks import hook_after, hook_before
from attnsurgeon.planning.cutting.leaks import torn
from attnsurgeon.planning.cutting.rebuilders import inside_rebuilder, outside_rebuilders
from attnsurgeon.planning.cutting.retyping import rewritten_around
from attnsurgeon.planning.place import Place, Refusal
from attnsurgeon.sites.survey import Survey


def place_on(survey: Survey, node: fx.Node, before: fx.Node | None = None) -> Place | Refusal:
    """Finds the best cut after `node`; with `before`, where `node` goes into `before`."""
    target = before if before is not None else node
    if target.meta.get("event") is None:
        return Refusal("it is made where no torch function can be seen")
    if shared := torn(survey, target):
        return shared
    inner, shown = outside_rebuilders(target)
    if shown is None:
        return inside_rebuilder(inner)
    reasons: list[str] = []
    retype = rewritten_around(survey, target, before is not None, reasons, shown)
    if isinstance(retype, Place) and not retype.note:
        return retype
    if before is not None:
        hook = hook_before(survey, before, node)
    else:
        hook = hook_after(survey, node, shown, reasons)
    return hook or retype or Refusal("; ".join(reasons) or "no module boundary shows it")
