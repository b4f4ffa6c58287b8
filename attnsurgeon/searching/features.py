"""Candidates -> how much of the network's features each of them gates.

The features of a site are the elements of its map: channels times positions, of one image. They
are counted within its stage: a site's share is its features by those of all sites of the stage that
any of the candidates could gate. Stages count alike, unless the user weighs them. The share of the
whole is in millionths, whole numbers, so that sums of them are exact.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction

from attnsurgeon.errors import UsageError
from attnsurgeon.searching.candidates import Candidate, by_path
from attnsurgeon.sites.site import Site

WHOLE = 1_000_000


def shares(
    candidates: Sequence[Candidate], weights: Mapping[int, float] | None = None
) -> dict[str, int]:
    """Returns path of a site -> its share of the features, in millionths of the whole.

    Args:
        candidates: of one network.
        weights: stage -> how much it counts; 1 where nothing is said.

    Raises:
        UsageError: a weight is no number from 0, of no stage here, or all are 0.
    """
    sites = by_path(candidates)
    weigh = weights_of(sites, weights)
    features = {path: features_of(site) for path, site in sites.items()}
    of_stage: dict[int | None, int] = {}
    for path, site in sites.items():
        of_stage[site.stage] = of_stage.get(site.stage, 0) + features[path]
    total = sum(weigh[stage] for stage in of_stage)
    return {
        path: round(
            WHOLE * weigh[site.stage] / total * Fraction(features[path], of_stage[site.stage])
        )
        for path, site in sites.items()
    }


def features_of(site: Site) -> int:
    """Elements of the map at a site, of one image."""
    return math.prod(site.shape[1:])


def weights_of(
    sites: Mapping[str, Site], weights: Mapping[int, float] | None
) -> dict[int | None, Fraction]:
    """Returns stage -> weight, of every stage that a site has."""
    stages = list(dict.fromkeys(site.stage for site in sites.values()))
    weigh: dict[int | None, Fraction] = dict.fromkeys(stages, Fraction(1))
    for stage, weight in (weights or {}).items():
        if (
            isinstance(weight, bool)
            or not isinstance(weight, (int, float))
            or not 0 <= weight < 1e9
        ):
            raise UsageError(f"weights: {weight!r} is no weight of stage {stage}", "0, 1, 2.5")
        if stage not in weigh:
            known = ", ".join(str(one) for one in stages if one is not None)
            raise UsageError(
                f"weights: no site to choose from is in stage {stage!r}", f"stages: {known}"
            )
        weigh[stage] = Fraction(weight)
    if not any(weigh.values()):
        raise UsageError("weights: every stage counts 0, so nothing is worth choosing")
    return weigh
