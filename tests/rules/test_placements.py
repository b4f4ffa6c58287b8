"""The shipped rule files: all there, well formed, and listed without heavy imports."""

from __future__ import annotations

import subprocess
import sys

import pytest

from attnsurgeon.errors import RuleError
from attnsurgeon.rules.placements import (
    PAPER,
    placements,
    shipped,
    shipped_names,
    shipped_text,
)
from attnsurgeon.sites.site import ROLES

NAMES = {
    *("bottleneck", "residual-branch", "residual-block", "residual-add", "downsample", "stage"),
    *("stem", "head", "conv3x3", "depthwise", "activation", "stage-branch", "depthwise-act"),
    *("conv", "late-activation", "late-residual-add", "stage-block", "classifier"),
    *("decoder", "skip", "neck", "block-branch", "block", "block-conv", "block-conv3x3"),
    *("early-stage-block", "before-conv", "later-block-branch", "middle-block", "conv3x3-act"),
    "late-conv3x3-act",
    "later-skip",
    "last-stage-conv3x3",
    *("norm", "act", "pool", "concat", "linear"),
}


def test_these_placements_are_shipped():
    assert set(shipped_names()) == NAMES


def test_every_role_is_a_placement():
    assert set(ROLES) <= NAMES


def test_the_list_has_a_sentence_for_each_and_for_paper():
    listed = placements()
    assert {one.name for one in listed} == NAMES | {PAPER}
    assert all(one.message.endswith(".") for one in listed)
    assert len({one.message for one in listed}) == len(listed)


@pytest.mark.parametrize("name", shipped_names())
def test_a_shipped_file_is_one_placement_named_like_its_file(name):
    file = shipped(name)
    (rule,) = file.rules
    assert (file.name, rule.id) == (name, name)
    assert rule.attn is None
    assert rule.action == ("insert-before" if name.startswith("before-") else None)


@pytest.mark.parametrize("name", shipped_names())
def test_a_shipped_file_is_tested_on_three_families_and_where_it_must_not_match(name):
    tests = shipped(name).tests or ()
    models = [test.model for test in tests]
    for family in ("resn", "mobilenet", "convnext"):
        assert any(model.startswith(family) for model in models), family
    counts = [test.expect[name].count for test in tests]
    assert any(count is not None and count.high == 0 and count.holds(0) for count in counts)


def test_an_unknown_placement_is_answered_with_the_nearest():
    with pytest.raises(RuleError, match=r"'residual-brunch'\n.*'residual-branch'"):
        shipped("residual-brunch")
    with pytest.raises(RuleError, match=r"no placement is called '../pyproject'"):
        shipped_text("../pyproject")


def test_listing_imports_neither_torch_nor_the_models_of_a_rule_file():
    code = (
        "import sys; from attnsurgeon.rules.placements import placements; placements();"
        "print([name for name in ('torch', 'timm', 'pydantic') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_matching_imports_no_torch():
    code = (
        "import sys; from attnsurgeon.rules.where import select; select((), {'site': 'conv'});"
        "print('torch' in sys.modules, 'pydantic' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False True"
