"""What makes the scores from feature maps, in the place of the classifier or beside it."""

from __future__ import annotations

from collections.abc import Sequence

from torch import fx, nn

from attnsurgeon.planning.cutting.hooks import tap
from attnsurgeon.planning.cutting.takeover import takeover
from attnsurgeon.planning.deciding.asked import Asked, Draft, check_own, possible
from attnsurgeon.planning.deciding.operand import Impossible
from attnsurgeon.planning.place import class_name
from attnsurgeon.sites.flow import is_weighted
from attnsurgeon.sites.survey import Survey

_MAPS = ("NCHW", "NHWC", "NCDHW", "NDHWC")


def decide(asked: Asked) -> Draft:
    """Decides whether the classifier can be taken over, and where the maps are tapped."""
    survey, target, card = asked.survey, asked.target, asked.card
    place = possible(takeover(survey, target))
    linear = survey.traced.calls[place.host][0].module
    if not isinstance(linear, nn.Linear) or place.calls > 1:
        raise Impossible(
            f"it is made by a {class_name(target.meta['call'].module)}, not by a linear layer"
        )
    inputs = card.inputs(asked.request.attn_args)
    maps = [asked.value(node) for node in _maps(survey, "stages" in inputs)]
    flat = [v.layout for v in maps if v.layout not in _MAPS and not v.line]
    if flat:
        raise Impossible(f"{card.name} needs maps of positions, and here is {flat[0]}")
    taps = tuple(possible(tap(survey, value.node)) for value in maps)
    facts = {"classes": linear.out_features, "stages": tuple(v.channels for v in maps[:-1])}
    needed = maps[:-1] if "stages" in inputs else maps[-1:]
    used = taps[:-1] if "stages" in inputs else taps[-1:]
    keeps_old = "logits" in inputs or asked.request.init == "identity"
    removes = () if keeps_old else (place.host,)
    for path in removes:
        check_own(survey, path)
    if removes:
        _check_nothing_lost(survey, maps[-1].node, target)
    return Draft(
        place, maps[-1], facts, keeps_old=keeps_old, removes=removes,
        taps=used, tapped=tuple(value.layout for value in needed),
    )  # fmt: skip


def _check_nothing_lost(survey: Survey, last: fx.Node, classifier: fx.Node) -> None:
    """Raises where layers stand between the last map and the classifier that goes: nothing would
    run them any more.
    """
    way = survey.flow.between(last, classifier)
    lost = [node.meta["call"].path for node in way if is_weighted(node) and node is not classifier]
    if lost:
        raise Impossible(
            f"{lost[0]} works between the last map and the classifier, and nothing would run it:"
            " the identity start keeps both"
        )


def _maps(survey: Survey, stages: bool) -> Sequence[fx.Node]:
    """The last feature map; with `stages`, after the maps at the end of each earlier stage."""
    head = [site for site in survey.sites if "head" in site.roles]
    if not head:
        raise Impossible("no feature map comes before the classifier")
    ends = [s for s in survey.sites if "stage" in s.roles and s is not head[0]] if stages else []
    if stages and not ends:
        raise Impossible("the network has only one stage")
    return [survey.nodes[site.path] for site in (*ends, head[0])]
