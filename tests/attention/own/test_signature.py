"""Which arguments of a constructor follow from the site: by names, as people write them."""

from __future__ import annotations

import inspect

import pytest

from attnsurgeon.attention.own.signature import facts_of_site, following, resolved
from attnsurgeon.errors import MechanismError

# Signatures of mechanisms that are passed around, and what each argument is there.
FOUND = [
    (lambda channel=512, reduction=16: 0, {"channel": "$C"}),
    (lambda inp, oup, reduction=32: 0, {"inp": "$C", "oup": "$C"}),
    (lambda channels, c2=None, factor=32: 0, {"channels": "$C"}),
    (lambda in_channels, out_channels, rate=4: 0, {"in_channels": "$C", "out_channels": "$C"}),
    (lambda in_planes, planes: 0, {"in_planes": "$C", "planes": "$C"}),
    (lambda gate_channels, reduction_ratio=16: 0, {"gate_channels": "$C"}),
    (lambda c1, k=7: 0, {"c1": "$C"}),
    (lambda dim, heads=8: 0, {"dim": "$C"}),
    (lambda features, M=2, G=32: 0, {"features": "$C"}),
    (
        lambda n_dims, width=14, height=14, heads=4: 0,
        {"n_dims": "$C", "width": "$W", "height": "$H"},
    ),
    (lambda C, H, W: 0, {"C": "$C", "H": "$H", "W": "$W"}),
    (lambda dim, fmap_size: 0, {"dim": "$C", "fmap_size": "$size"}),
    (lambda channels, stage=0: 0, {"channels": "$C", "stage": "$stage"}),
    (lambda in_channels, spatial_dims=2: 0, {"in_channels": "$C", "spatial_dims": "$rank"}),
]
# And what is none of a site, though the name could be: it keeps its default, or has to be given.
LEFT = [
    lambda dim=1: 0,
    lambda dim=-1: 0,
    lambda width: 0,
    lambda h=8: 0,
    lambda size=7: 0,
    lambda rank=4: 0,
    lambda kernel_size, groups=8: 0,
    lambda out_channels=64: 0,
    lambda: 0,
]


@pytest.mark.parametrize(("function", "expected"), FOUND)
def test_what_follows_from_the_site_is_known_by_its_name(function, expected):
    assert following(inspect.signature(function).parameters) == expected


@pytest.mark.parametrize("function", LEFT)
def test_what_may_be_something_else_is_left_alone(function):
    assert following(inspect.signature(function).parameters) == {}


def test_words_stand_for_what_the_site_is():
    facts = facts_of_site((7, 5), 3) | {"$C": 64}
    given = {"a": "$C", "b": ["$H", "$W"], "c": ("$size", 2), "d": "$stage", "e": "C", "f": 8}
    assert {name: resolved(value, facts, name) for name, value in given.items()} == {
        "a": 64,
        "b": [7, 5],
        "c": ((7, 5), 2),
        "d": 3,
        "e": "C",
        "f": 8,
    }
    assert resolved("$D", facts_of_site((2, 7, 5), None), "depth") == 2
    assert resolved("$C", {}, "a") == "$C"  # of what is said later


def test_a_word_that_stands_for_nothing_is_refused_with_the_nearest():
    with pytest.raises(MechanismError, match=r"k='\$Stage' stands for nothing") as caught:
        resolved("$Stage", {}, "k")
    assert "$stage" in (caught.value.hint or "")
    with pytest.raises(MechanismError, match=r"k is \$stage, and that is not known here"):
        resolved("$stage", facts_of_site((7, 5), None), "k")
    with pytest.raises(MechanismError, match=r"d is \$D"):
        resolved("$D", facts_of_site((7, 5), 1), "d")
