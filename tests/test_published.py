"""A mechanism's own placement on the networks of its authors, and the page that says so."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torchvision

import attnsurgeon
from attnsurgeon.asked import rules_for
from attnsurgeon.attention.registry import mechanisms
from attnsurgeon.errors import SurgeonError
from attnsurgeon.operate import matches_of, plan_rules
from attnsurgeon.sites.survey import Survey
from tests.published import (
    PAGES,
    PUBLISHED,
    ROOT,
    STANDARD,
    WORDS,
    cells,
    found,
    survey_of,
    written,
)
from tests.surgery import ready

PLACED = [(name, entry) for name in PUBLISHED for entry in PUBLISHED[name]["networks"]]
QUICK = {"resnet18", "resnet34", "resnet50", "resnet50d", "resnext50_32x4d", "mobilenetv2_100"}
each_placed = pytest.mark.parametrize(
    ("name", "entry"),
    [
        pytest.param(
            name,
            entry,
            id=f"{name}-{entry['net']}",
            marks=[] if "build" in entry or entry["net"] in QUICK else pytest.mark.slow,
        )
        for name, entry in PLACED
    ],
)


def taken(name: str, survey: Survey) -> list[str]:
    """The sites that a mechanism's own placement takes."""
    (matches,) = matches_of(survey, rules_for(name, None, None, None, "identity"))
    return [site.path for site in matches.sites]


def cut(name: str, survey: Survey) -> int:
    """How many of them are cut."""
    try:
        file = rules_for(name, None, None, None, "identity")
        made = plan_rules(survey, file, init="identity", where="paper")
    except SurgeonError:
        return 0
    return sum(1 + len(one.shared) for one in made)


def test_the_data_has_every_mechanism_and_says_of_each_where_it_was_published():
    assert list(PUBLISHED) == list(mechanisms())
    assert all(entry["networks"] or "why" in entry for entry in PUBLISHED.values())


def test_where_ours_differs_from_the_authors_the_data_says_why():
    for _, entry in PLACED:
        assert ("found" in entry or "cut" in entry) <= ("why" in entry)
        assert entry.get("found") != entry["sites"]
    assert set(WORDS["why"]["en"]) == set(WORDS["why"]["zh"])


@pytest.mark.parametrize("network", range(len(STANDARD)))
def test_each_placement_takes_what_the_data_says_in_the_standard_networks(network):
    survey = survey_of(STANDARD[network])
    counts = {name: len(taken(name, survey)) for name in PUBLISHED}
    assert counts == {name: entry["standard"][network] for name, entry in PUBLISHED.items()}


@each_placed
def test_each_placement_takes_what_the_data_says_in_the_networks_of_its_authors(name, entry):
    paths = taken(name, survey_of(entry))
    assert (len(paths), paths[0]) == (found(entry), entry["first"])


def test_dilation_changes_no_count():
    for name, entry in PUBLISHED.items():
        assert entry["standard"][1] == entry["standard"][2], name


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_what_a_placement_takes_is_cut_but_for_what_the_data_says(name):
    for network, _, wanted in cells(name):
        assert cut(name, survey_of(network)) == wanted, network
    for entry in PUBLISHED[name]["networks"]:
        assert cut(name, survey_of(entry)) == entry.get("cut", found(entry)), entry


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("eca", {}),
        ("simam", {}),
        *(
            pytest.param(name, args, marks=pytest.mark.slow)
            for name, args in [
                ("triplet", {}),
                ("dca", {"reduction": 4}),
                ("sk", {}),
                ("spa", {"reduction": 4, "variant": "B"}),
                ("scse", {"reduction": 4}),
            ]
        ),
    ],
)
def test_all_seventeen_blocks_of_a_mobilenet_are_cut_and_start_as_they_were(name, args):
    torch.manual_seed(0)
    net = ready(torchvision.models.mobilenet_v2(width_mult=0.25))
    operation = attnsurgeon.insert(net, name, attn_args=args, input_size=(3, 64, 64))
    assert (len(operation.plan), operation.plan.refused) == (17, ())
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(operation.model.eval()(x), net(x))


@pytest.mark.parametrize("language", PAGES)
def test_the_tables_of_a_page_are_those_of_the_data(language):
    """`python -m tests.published` writes them."""
    text = (ROOT / PAGES[language]).read_text(encoding="utf-8")
    assert written(text, language) == text


def test_a_table_that_went_stale_is_told(monkeypatch: pytest.MonkeyPatch):
    text = (ROOT / PAGES["en"]).read_text(encoding="utf-8")
    changed: dict[str, Any] = {**PUBLISHED["eca"], "standard": [8, 16, 16, 10]}
    monkeypatch.setitem(PUBLISHED, "eca", changed)
    assert written(text, "en") != text
