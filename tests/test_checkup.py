"""A checkup of a saved folder: what is wrong, what is only different, and what is fine."""

import dataclasses

import pytest

from attnsurgeon import insert, load_model
from attnsurgeon.checks.auditing import Audit
from attnsurgeon.checkup import check_folder
from attnsurgeon.saved.restore import read_folder
from attnsurgeon.splicing.replay import replan
from tests.cli.command import TINY

SIZE = (3, 40, 24)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "net"
    return insert(load_model(f"{TINY}net"), "eca", input_size=SIZE).save(path)


@pytest.fixture(scope="module")
def found(folder):
    return check_folder(folder, trust=True)


def test_a_folder_just_saved_has_no_problems(found):
    assert (found.ok, found.problems, found.base_kept) == (True, (), True)
    assert found.now.identity
    assert len(found.afresh) == 1
    assert found.afresh[0].stuck == ()


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"missing_keys": ("fc.bias",)}, "1 original keys are missing: fc.bias"),
        ({"unexpected_keys": ("a", "b")}, "2 new keys belong to no inserted module: a, b"),
        ({"reordered": True}, "another order"),
    ],
)
def test_what_is_wrong_with_the_saved_network_is_a_problem(found, changes, problem):
    wrong = dataclasses.replace(found, now=dataclasses.replace(found.now, **changes))
    assert not wrong.ok
    assert problem in wrong.problems[0]


def test_outputs_that_training_moved_are_no_problem(found):
    moved = dataclasses.replace(found.now, identity=False, values_equal=0, max_abs_diff=3.0)
    assert dataclasses.replace(found, now=moved, base_kept=False).ok


def test_an_operation_that_does_not_verify_when_made_again_is_a_problem(found):
    broken = dataclasses.replace(found.afresh[0], identity=False, max_abs_diff=0.5)
    assert dataclasses.replace(found, afresh=(broken,)).problems == ("outputs moved by up to 0.5",)


def test_an_attention_that_never_runs_is_a_problem(found):
    lost = Audit({"late.attn": 0}, ("late.attn",), {})
    assert dataclasses.replace(found, audit=lost).problems == (
        "1 inserted modules are never called: late.attn",
    )


def test_an_attention_that_is_not_what_was_put_in_is_a_problem(found):
    other = dataclasses.replace(found.audit, altered={"late.attn": "fc1.weight is gone"})
    assert dataclasses.replace(found, audit=other).problems == (
        "late.attn is altered: fc1.weight is gone",
    )


def test_the_plan_made_again_is_the_plan_that_was_saved(folder):
    operation = read_folder(folder).operations[0]
    assert replan(load_model(f"{TINY}net"), operation).record() == operation
