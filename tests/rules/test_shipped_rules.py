"""The tests inside the shipped rule files, run on the networks that they name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

from attnsurgeon.models import build_on_meta
from attnsurgeon.rules.cases import run_tests
from attnsurgeon.rules.parse import parse_rules
from attnsurgeon.rules.placements import shipped, shipped_names, shipped_text
from attnsurgeon.rules.template import rule_template
from attnsurgeon.sites.analysis import analyse
from attnsurgeon.sites.site import Site

OF_LIBRARIES = sorted((Path(__file__).parent / "of_libraries").glob("*.yaml"))


def find(spec: str, args: Mapping[str, Any], input_size: tuple[int, ...] | None) -> list[Site]:
    return _found(spec, json.dumps(dict(args)), input_size)


@lru_cache
def _found(spec: str, args: str, input_size: tuple[int, ...] | None) -> list[Site]:
    """Looks at each network once for all the files that name it; no weights are made."""
    return list(analyse(build_on_meta(spec, **json.loads(args)), input_size).sites)


@pytest.mark.parametrize("name", shipped_names())
def test_a_shipped_rule_takes_and_leaves_what_its_tests_say(name):
    outcomes = run_tests(shipped(name), find, trust=True)
    assert len(outcomes) >= 4
    assert [one for one in outcomes if one.status != "ok"] == []


@pytest.mark.slow
@pytest.mark.parametrize("file", OF_LIBRARIES, ids=lambda file: file.stem)
def test_a_shipped_rule_takes_and_leaves_the_same_on_networks_of_optional_libraries(file):
    for library in ("segmentation_models_pytorch", "ultralytics"):
        pytest.importorskip(library)
    rules = parse_rules(file.read_text(encoding="utf-8"))
    assert rules.rules == shipped(file.stem).rules  # the same rules, with further tests
    outcomes = run_tests(rules, find)
    assert outcomes
    assert [one for one in outcomes if one.status != "ok"] == []


def test_a_new_rule_file_passes_its_own_tests():
    outcomes = run_tests(parse_rules(rule_template("mine")), find)
    assert [one.status for one in outcomes] == ["ok", "ok"]


@pytest.mark.parametrize(
    ("name", "damage", "status"),
    [
        ("bottleneck", ("pointwise spatial pointwise", "'* *'"), {"noisy", "missing"}),
        ("activation", ('      resolution: ">1"\n', ""), {"noisy"}),
        ("conv3x3", ("      depthwise: false\n", ""), {"noisy"}),
        ("stage-branch", (", not: {site: residual-add}", ""), {"noisy"}),
        ("residual-branch", ("leaves:\n", "leaves:\n          nowhere: none such\n"), {"invalid"}),
    ],
)
def test_a_shipped_rule_that_was_changed_fails_its_tests(name, damage, status):
    old, new = damage
    assert old in shipped_text(name)
    changed = parse_rules(shipped_text(name).replace(old, new, 1))
    assert {one.status for one in run_tests(changed, find)} - {"ok"} == status
