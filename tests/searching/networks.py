"""What the tests of the search share: small networks, their candidates, and every set of them."""

from __future__ import annotations

import itertools

from torch import nn

from attnsurgeon.asked import rules_for
from attnsurgeon.searching.candidates import Found, exclusions, find_candidates
from attnsurgeon.searching.solving import Set
from attnsurgeon.sites.analysis import analyse
from attnsurgeon.sites.survey import Survey
from tests.cli.tiny import Net

SIZE = (3, 40, 24)


def survey_of(net: nn.Module | None = None) -> Survey:
    return analyse(net or Net(), SIZE)


def candidates_of(survey: Survey, *names: str, init: str = "identity") -> Found:
    asked = [(rules_for(name, None, None, None, init), True) for name in names]
    return find_candidates(survey, asked, init=init)


def every_set(found: Found) -> list[Set]:
    """Every set of candidates of which no two exclude each other."""
    apart = exclusions(found.candidates)
    count = len(found.candidates)
    return [
        one
        for size in range(count + 1)
        for one in itertools.combinations(range(count), size)
        if all(len(group.intersection(one)) <= 1 for group in apart)
    ]
