"""The benchmarks over timm: what they say of a network is so, and they notice what is broken."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

import attnsurgeon
from attnsurgeon.checks.verify import randomise_norms
from benchmarks import zoo, zoo_operate
from benchmarks.resumable import read, run, write
from benchmarks.zoo_operate import (
    changed_answers,
    equal,
    observed,
    operate_module,
    operate_network,
    smallest,
    smallest_input,
    verified,
)
from tests.nets.jobs import count_letters

# Small networks of different kinds.
KINDS = [
    "test_resnet",
    "test_nfnet",
    "test_convnext",
    "test_maxvit",
    "mobilevit_xxs",
    "repghostnet_050",
    "ese_vovnet19b_slim_dw",
    "edgenext_xx_small",
]


@pytest.fixture(scope="module")
def operation() -> Any:
    torch.manual_seed(0)
    model = attnsurgeon.load_model("test_resnet").eval()
    randomise_norms(model)
    return attnsurgeon.insert(model, "eca", "residual-branch", input_size=(3, 64, 64))


@pytest.fixture(scope="module")
def x() -> torch.Tensor:
    return torch.randn(2, 3, 64, 64)


def test_a_name_is_planned_at_every_placement_that_it_has():
    result = zoo.plan_one("test_resnet")
    assert result["status"] == "planned"
    assert result["placements"]["residual-branch"] == {"matched": 4, "cut": 4, "reason": ""}
    assert zoo.plan_one("no_such_network")["status"] == "failed"
    table = zoo.table([result])
    assert "1 names: 1 planned, 0 refused with a reason, 0 failed." in table
    assert "| residual-branch | 1 | 1 | 0 | 0 | 4 of 4 |" in table


def test_answers_are_equal_to_the_bit_or_differ():
    one = torch.tensor([1.0, float("nan")])
    assert equal([one, "a", 1], [one.clone(), "a", 1])
    assert not equal([one], [one + 1e-7])
    assert not equal([one], [one, one])
    assert not equal([torch.zeros(2)], [torch.zeros(2, 1)])
    assert not equal([1], [True])


def test_the_smallest_input_and_the_arguments_for_it_are_found():
    assert smallest_input("test_resnet", {}) == ((3, 64, 64), {})
    assert smallest_input("test_vit", {}) == ((3, 64, 64), {"img_size": 64})


@pytest.mark.slow
def test_every_question_is_answered_and_a_change_is_noticed(operation, x):
    model = operation.model
    before = observed(model, x)
    for name in ("forward", "reset_classifier"):
        assert [type(answer) for answer in before[name]] == [torch.Tensor]
    assert len(before["training, checkpointed"]) > 1
    assert changed_answers(operation, x, before) == []
    broken = attnsurgeon.insert(model, "eca", "residual-branch", input_size=(3, 64, 64))
    with torch.no_grad():
        for parameter in broken.model.get_submodule(broken.plan.cuts[0].module_path).parameters():
            parameter.add_(0.5)
    changed = changed_answers(broken, x, before)
    assert "forward answers otherwise" in changed
    assert "forward_intermediates answers otherwise" in changed
    assert "saved and loaded, it computes something else" in changed
    assert any("outputs moved" in problem for problem in verified(broken))


def test_a_module_that_cannot_be_tried_says_so_and_stands_in_the_table(tmp_path):
    result = operate_module("no_such_module")
    assert result["error"].startswith("ValueError")
    path = tmp_path / "results.jsonl"
    path.write_text(json.dumps(result) + "\n")
    assert list(read(path, "module")) == ["no_such_module"]
    assert "1 modules, 1 that could not be tried." in zoo_operate.table([result])


@pytest.mark.slow
def test_the_smallest_network_of_a_module_is_none_of_timms_toys():
    assert smallest("vovnet") == "ese_vovnet19b_slim_dw"


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_a_network_of_every_kind_is_what_it_was(name):
    result = operate_network(name)
    assert result["finite"]
    for attn, made in result["mechanisms"].items():
        assert made["status"] == "ok", (attn, made)
        assert made["cut"] > 0
    row = zoo_operate.table([{**result, "module": name, "seconds": 1.0, "peak_mb": 1}])
    assert f"| {name} | {name}" in row


def test_a_run_goes_on_where_it_was_stopped(tmp_path):
    path = tmp_path / "results.jsonl"
    path.write_text('{"name": "there", "letters": 0}\n')
    run(
        count_letters, ["there", "new"], path, key="name", workers=1, each=1, doing="counting"
    )  # fmt: skip
    assert read(path, "name") == {
        "there": {"name": "there", "letters": 0},
        "new": {"name": "new", "letters": 3},
    }


def test_a_table_is_written_between_its_marks_only(tmp_path):
    file = tmp_path / "doc.md"
    file.write_text("before\n<!-- zoo timm table -->\nold\n<!-- zoo end -->\nafter\n")
    write(file, "timm", {"table": "new | 1", "summary": "elsewhere"})
    assert file.read_text() == (
        "before\n<!-- zoo timm table -->\nnew | 1\n<!-- zoo end -->\nafter\n"
    )
    with pytest.raises(SystemExit, match="has no mark such as <!-- zoo torchvision table"):
        write(file, "torchvision", {"table": ""})


def test_the_pages_of_networks_show_the_table_of_the_zoo():
    root = Path(zoo.__file__).parents[1]
    docs = (root / "docs/zoo.md").read_text(encoding="utf-8")
    for name in ("docs/networks.md", "docs/networks.zh-CN.md"):
        text = (root / name).read_text(encoding="utf-8")
        shown = re.findall("<!-- zoo timm summary -->\n(.*?)\n<!-- zoo end -->", text, re.DOTALL)
        assert len(shown) == 1
        assert "| residual-branch |" in shown[0]
        assert shown[0] in docs
