"""What a worker hands on: numbers, and one clear sentence where there are none."""

from pathlib import Path

import pytest
import torch

from attnsurgeon.errors import UsageError
from attnsurgeon.sweeping import trials
from attnsurgeon.sweeping.trials import Report, TrainFailed, pack, run_variant


@pytest.fixture
def sent(monkeypatch):
    made = []
    monkeypatch.setattr(trials, "_send", lambda metrics, checkpoint: made.append(metrics))
    monkeypatch.setattr(trials, "_last_checkpoint", lambda: trials.contextlib.nullcontext())
    return made


def ran(train, tmp_path, **config):
    run_variant({"variant": "one", **config}, train=train, folder=str(tmp_path), metric="accuracy")


def test_a_function_gets_its_folder_and_its_settings(sent, tmp_path):
    def run(folder, report, lr, epochs=2):
        assert (folder, lr, report.checkpoint) == (str(tmp_path / "one"), 0.1, None)
        for epoch in range(epochs):
            report({"accuracy": torch.tensor(0.5 + epoch), "note": "x"})

    ran(run, tmp_path, lr=0.1)
    assert sent == [{"accuracy": 0.5, "note": "x"}, {"accuracy": 1.5, "note": "x"}]
    assert type(sent[0]["accuracy"]) is float


def test_what_a_function_returns_is_its_last_report(sent, tmp_path):
    ran(lambda folder, report: {"accuracy": 1}, tmp_path)
    assert sent == [{"accuracy": 1}]


@pytest.mark.parametrize(
    ("metrics", "said"),
    [
        ({"acuracy": 1.0}, r"no 'accuracy' was reported.*reported: acuracy.*did you mean"),
        ({}, "reported: nothing"),
        ({"accuracy": "high"}, "'accuracy' is 'high', which is no number"),
        ({"accuracy": torch.zeros(2)}, "which is no number"),
        (0.5, "report was given a float"),
    ],
)
def test_a_report_without_the_metric_is_one_sentence(metrics, said, sent, tmp_path):
    with pytest.raises(TrainFailed, match=said):
        ran(lambda folder, report: report(metrics), tmp_path)
    assert sent == []


def test_no_report_at_all_is_said(sent, tmp_path):
    with pytest.raises(TrainFailed, match="it returned without a report of 'accuracy'"):
        ran(lambda folder, report: None, tmp_path)


def test_an_error_of_the_function_says_where(sent, tmp_path):
    def run(folder, report):
        raise ValueError("the images are gone")

    with pytest.raises(
        TrainFailed, match=r"ValueError: the images are gone, .*test_trials.py"
    ) as e:
        ran(run, tmp_path)
    assert isinstance(e.value.__cause__, ValueError)


def test_a_report_outside_of_a_sweep_is_a_function_like_any_other():
    seen = []
    report = Report("loss", None, lambda metrics, checkpoint: seen.append((metrics, checkpoint)))
    report({"loss": 1}, checkpoint="there")
    assert seen == [({"loss": 1}, Path("there"))]
    with pytest.raises(UsageError):
        report({"los": 1})


def test_a_folder_travels_packed(tmp_path, monkeypatch):
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "surgery.json").write_text("{}")
    packed = {"one": pack(tmp_path / "one")}
    monkeypatch.setattr(trials, "_fetched", lambda reference: reference)
    with trials._folder(tmp_path / "gone" / "one", "one", packed) as folder:
        assert (folder / "surgery.json").read_text() == "{}"
    assert not folder.exists()
    with trials._folder(tmp_path / "one", "one", packed) as folder:  # where it can be seen
        assert folder == tmp_path / "one"
