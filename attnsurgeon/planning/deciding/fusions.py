"""What stands in the place of a residual addition."""

from __future__ import annotations

from dataclasses import replace

from attnsurgeon.planning.cutting.retyping import place_of_operation
from attnsurgeon.planning.deciding.asked import Asked, Draft, possible
from attnsurgeon.planning.deciding.operand import Impossible
from attnsurgeon.sites.flow import Flow


def decide(asked: Asked) -> Draft:
    """Decides whether an addition of one branch and one shortcut can be replaced."""
    target = asked.target
    residual = asked.survey.residuals.get(asked.request.site.path)
    if residual is None:
        raise Impossible("it is no residual addition")
    terms = Flow.inputs(target)
    if len(terms) != 2 or residual.shortcut not in terms or target.kwargs:
        raise Impossible("it is not an addition of one branch and one shortcut")
    place = possible(place_of_operation(asked.survey, target, "fuse"))
    return Draft(replace(place, second=terms.index(residual.shortcut)), asked.value(target))
