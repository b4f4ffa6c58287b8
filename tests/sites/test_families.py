"""The sites of small networks after published families, against what people name by hand."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

from attnsurgeon.recording.trace import trace
from attnsurgeon.sites.survey import Survey, survey
from tests.surgery import paths

EXPECTED: dict[str, dict[str, Any]] = yaml.safe_load(
    (Path(__file__).parents[1] / "nets" / "expected.yaml").read_text(encoding="utf-8")
)
STRUCTURE = ("stem", "stage", "downsample", "head", "decoder", "skip", "neck")
BRANCHES = ("residual-branch", "residual-block", "residual-add")
SIZE = (3, 128, 128)
SLOW = frozenset(name for name, entry in EXPECTED.items() if entry.get("slow"))


def build(entry: dict[str, Any]) -> nn.Module:
    module, _, factory = entry["build"].partition(".")
    families = importlib.import_module(f"tests.nets.families.{module}")
    return getattr(families, factory)(**entry.get("args", {}))


def wanted(entry: dict[str, Any]) -> dict[str, list[str]]:
    """The paths of every role that is looked at."""
    roles = {role: entry.get(role, []) for role in STRUCTURE}
    if "downsample" not in entry:
        roles["downsample"] = roles["stage"][:-1]
    return roles | {role: entry[role] for role in BRANCHES if role in entry}


def found(survey: Survey, entry: dict[str, Any]) -> dict[str, list[str]]:
    return {role: paths(survey, role) for role in wanted(entry)}


def recorded(entry: dict[str, Any]) -> Survey:
    images = (torch.empty(2, *entry.get("size", SIZE), device="meta"),) * entry.get("inputs", 1)
    return survey(trace(build(entry), images))


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] if n in SLOW else []) for n in EXPECTED]
)
def test_the_sites_of_a_family_are_those_that_people_name(name):
    entry = EXPECTED[name]
    assert found(recorded(entry), entry) == wanted(entry)


def test_the_corpus_is_large_and_says_only_what_it_may():
    assert len(EXPECTED) >= 60
    known = {"build", "args", "why", "slow", "inputs", "size", *STRUCTURE, *BRANCHES}
    assert {key for entry in EXPECTED.values() for key in entry} <= known


def test_a_wrong_expectation_is_told_from_a_right_one():
    entry = {**EXPECTED["unet-bilinear"], "decoder": ["up3.1.2"]}
    assert found(recorded(entry), entry) != wanted(entry)


def stages(name: str) -> dict[str, int | None]:
    return {s.path: s.stage for s in recorded(EXPECTED[name]).sites}


def test_stages_that_keep_their_resolution_by_dilation_are_numbered_like_those_that_lower_it():
    numbers = stages("output-stride-8")
    for layer in (1, 2, 3, 4):
        blocks = [n for path, n in numbers.items() if path.startswith(f"body.layer{layer}.")]
        assert set(blocks) == {layer}


def test_a_value_of_a_decoder_has_the_stage_of_its_resolution():
    numbers = stages("unet-bilinear")
    assert [numbers[path] for path in ("up3.1.2", "up2.1.2", "up1.1.2")] == [3, 2, 1]
    assert [numbers[path] for path in (":cat(0)", ":cat#2(0)", ":cat#3(0)")] == [3, 2, 1]


def test_a_value_of_an_inner_resolution_that_is_no_stage_says_why():
    sites = {s.path: s for s in recorded(EXPECTED["fpn-with-p6"]).sites}
    assert (sites["p6"].stage, sites["p6"].no_stage) == (None, "no stage has its resolution")
    assert sites["smooth.2"].no_stage == ""
    pooled = {s.path: s for s in recorded(EXPECTED["bisenet"]).sites}
    assert pooled["pooled.0"].no_stage == "it has no positions"
