"""A sweep without Ray: what it refuses before it starts, and what becomes of what came out."""

import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

import attnsurgeon as surgeon
from attnsurgeon.errors import CheckFailed, UsageError
from attnsurgeon.grid.limits import in_order
from attnsurgeon.grid.saving import read_index
from attnsurgeon.grid.text import as_csv, as_markdown
from attnsurgeon.report.comparison import comparison_page
from attnsurgeon.sweeping.engine import Job, Trial, _best, _connected
from attnsurgeon.sweeping.merging import merged
from attnsurgeon.sweeping.sweeps import named, sweep
from tests.cli.command import TINY, attnsurgeon

TRAIN = Path(__file__).with_name("training.py")
ASKED = {"metric": "accuracy", "mode": "max"}


@pytest.fixture(scope="module")
def variants(tmp_path_factory):
    """Three variants, and one that cannot go in."""
    folder = tmp_path_factory.mktemp("sweeps") / "variants"
    surgeon.compare(
        f"{TINY}net", ["eca", "se(reduction=8)", "srm", "csra"], "residual-branch",
        input_size=(3, 40, 24), save_all=folder, verify="none",
    )  # fmt: skip
    return folder


@pytest.fixture
def grid(variants):
    made = read_index(variants)
    return replace(made, rows=tuple(replace(row, trained=None) for row in made.rows))


def trials(grid, *values, **more):
    folders = [row.folder for row in grid.rows if row.folder]
    return [
        Trial(folder, {"lr": 0.1}, True, 3, 1.5, value, "there", **more)
        for folder, value in zip(folders, values, strict=False)
    ]


def test_the_best_stand_first_and_what_cannot_go_in_last(grid):
    made = merged(grid, trials(grid, 0.25, 0.75, 0.5), "accuracy", "max")
    assert [row.attn for row in made.rows] == ["se(reduction=8)", "srm", "eca", "csra"]
    assert made.rows[0].trained == {
        "metric": "accuracy", "mode": "max", "value": 0.75, "reports": 3, "seconds": 1.5,
        "config": {"lr": 0.1}, "checkpoint": "there", "trials": 1, "failed": 0, "error": None,
    }  # fmt: skip
    assert made.rows[3].trained is None
    lowest = merged(grid, trials(grid, 0.25, 0.75, 0.5), "loss", "min")
    assert [row.attn for row in lowest.rows][:3] == ["eca", "srm", "se(reduction=8)"]
    networks = {one.name: one for one in grid.networks}
    turned = in_order(lowest.rows, networks, "-trained")
    assert [row.attn for row in turned][:3] == ["se(reduction=8)", "srm", "eca"]


@pytest.mark.parametrize(
    ("reported", "mode", "best"),
    [
        ([0.2, 0.9, 0.5], "max", 0.9),
        ([0.2, 0.9, 0.5], "min", 0.2),
        ([0.9, math.nan, 0.5], "max", 0.9),  # Ray's own is 0.5
        ([math.nan, 0.2, math.inf], "max", 0.2),
        ([3, True], "max", 3),
        ([], "max", None),
    ],
)
def test_the_best_of_what_was_reported(reported, mode, best):
    assert _best(reported, mode) == best


def test_of_reports_that_are_no_numbers_the_last_is_shown():
    assert math.isnan(_best([math.inf, math.nan], "min"))


def test_of_several_trials_of_a_variant_the_best_counts(grid):
    folder = grid.rows[0].folder
    several = [
        Trial(folder, {"lr": 0.1}, True, 2, 1.0, 0.4),
        Trial(folder, {"lr": 0.2}, True, 2, 1.0, 0.6),
        Trial(folder, {"lr": 0.3}, False, error="it raised"),
        Trial(folder, {"lr": 0.4}, True, 2, 1.0, float("nan")),
    ]
    found = merged(grid, several, "accuracy", "max").rows[0].trained
    assert found is not None
    assert (found["value"], found["config"]) == (0.6, {"lr": 0.2})
    assert (found["trials"], found["failed"], found["error"]) == (4, 1, "it raised")


def test_a_value_that_is_no_number_is_none(grid):
    found = merged(grid, trials(grid, float("nan")), "accuracy", "max").rows
    trained = next(row.trained for row in found if row.trained)
    assert trained["value"] is None
    assert "no number" in trained["error"]
    json.dumps([row.to_json() for row in found], allow_nan=False)


def test_tables_and_pages_have_what_was_learnt(grid):
    made = merged(grid, trials(grid, 0.25, 0.75), "accuracy", "max")
    assert "| attention | where | accuracy | sites |" in as_markdown(made)
    assert "| se(reduction=8) | residual-branch | 0.75 | 3 |" in as_markdown(made)
    head, first = as_csv(made).splitlines()[:2]
    assert dict(zip(head.split(","), first.split(","), strict=True))["best"] == "0.75"
    page = comparison_page(made)
    assert "accuracy" in page
    assert "2 trained." in page
    assert "nothing was trained" not in page
    assert "| attention | where | sites |" in as_markdown(grid)  # and nothing where none was
    assert "nothing was trained" in comparison_page(grid)


def test_a_comparison_that_is_given_again_shows_what_was_learnt(variants):
    from attnsurgeon.grid.journal import opened

    grid = read_index(variants)
    made = merged(grid, trials(grid, 0.25, 0.75, 0.5), "accuracy", "max")
    with opened(variants / "journal.jsonl", None) as journal:
        for row in made.rows:
            journal.add(row)
    again = surgeon.compare(
        f"{TINY}net", ["eca", "se(reduction=8)", "srm", "csra"], "residual-branch",
        input_size=(3, 40, 24), save_all=variants, verify="none", sort="trained",
    )  # fmt: skip
    assert [row.trained and row.trained["value"] for row in again.rows] == [0.75, 0.5, 0.25, None]


JOB = Job(Path("v"), ("a", "b"), print, {"lr": 0.1}, "accuracy", "max", "st", "")


def test_the_same_sweep_has_the_same_name_and_another_one_another():
    first = named(JOB, "my.py:run", ["s", "t"]).name
    assert first.startswith("v-")
    more = replace(JOB, workers=2, address="auto", max_failures=3, cpus=2.0)
    assert named(more, "my.py:run", ["s", "t"]).name == first
    others = [
        named(replace(JOB, config={"lr": 0.2}), "my.py:run", ["s", "t"]),
        named(replace(JOB, metric="loss"), "my.py:run", ["s", "t"]),
        named(replace(JOB, scheduler="asha"), "my.py:run", ["s", "t"]),
        named(JOB, "my.py:other", ["s", "t"]),
        named(JOB, "my.py:run", ["s", "u"]),
    ]
    assert len({first, *(one.name for one in others)}) == 6


def test_what_came_out_stands_in_the_folder_and_the_same_sweep_is_known_again(
    variants, tmp_path, monkeypatch
):
    jobs = []

    def ran(job, progress):
        jobs.append(job)
        values = {name: 0.1 + 0.3 * at for at, name in enumerate(job.variants)}
        return [Trial(n, dict(job.config), True, 3, 1.0, v) for n, v in values.items()], False

    monkeypatch.setattr("attnsurgeon.sweeping.sweeps.run_job", ran)
    monkeypatch.setattr("attnsurgeon.sweeping.sweeps.require_ray", lambda: None)
    made = [sweep(variants, f"{TRAIN}:run", tmp_path / "runs", **ASKED) for _ in range(2)]
    assert jobs[0] == jobs[1]  # though the rows stand in another order now
    assert [row.attn for row in made[0].rows] == ["srm", "se(reduction=8)", "eca", "csra"]
    assert read_index(variants) == made[0] == made[1]
    assert "0.7" in (variants / "README.md").read_text()


def test_a_sweep_of_which_nothing_came_out_says_the_first_reason(variants, tmp_path, monkeypatch):
    def ran(job, progress):
        return [Trial(name, {}, False, error="it raised") for name in job.variants], False

    monkeypatch.setattr("attnsurgeon.sweeping.sweeps.run_job", ran)
    monkeypatch.setattr("attnsurgeon.sweeping.sweeps.require_ray", lambda: None)
    with pytest.raises(CheckFailed, match="all 3 trials failed, the first because it raised"):
        sweep(variants, f"{TRAIN}:run", tmp_path / "runs", **ASKED)
    found = [row.trained for row in read_index(variants).rows if row.folder]
    assert [one and one["failed"] for one in found] == [1, 1, 1]


def test_an_interrupted_sweep_keeps_what_has_ended(variants, tmp_path, monkeypatch):
    def ran(job, progress):
        first, *others = job.variants
        ended = Trial(first, {}, True, 3, 1.0, 0.5)
        return [ended, *(Trial(name, {}, False) for name in others)], True

    monkeypatch.setattr("attnsurgeon.sweeping.sweeps.run_job", ran)
    monkeypatch.setattr("attnsurgeon.sweeping.sweeps.require_ray", lambda: None)
    with pytest.raises(KeyboardInterrupt):
        sweep(variants, f"{TRAIN}:run", tmp_path / "runs", **ASKED)
    rows = read_index(variants).rows
    assert [row.trained and row.trained["value"] for row in rows] == [0.5, None, None, None]
    assert rows[1].trained
    assert rows[1].trained["error"] == "it has not ended"


def test_what_is_no_folder_of_variants_is_refused(tmp_path, variants):
    with pytest.raises(UsageError, match="holds no variants"):
        sweep(tmp_path, f"{TRAIN}:run", tmp_path / "runs", **ASKED)
    (tmp_path / "journal.jsonl").write_text("")
    with pytest.raises(UsageError, match="is not finished"):
        sweep(tmp_path, f"{TRAIN}:run", tmp_path / "runs", **ASKED)
    (tmp_path / "index.json").write_text('{"format": "other"}')
    with pytest.raises(UsageError, match="cannot be read"):
        sweep(tmp_path, f"{TRAIN}:run", tmp_path / "runs", **ASKED)
    assert not (tmp_path / "runs").exists()


def test_a_variant_that_is_gone_is_named(tmp_path, variants):
    import shutil

    shutil.copytree(variants, tmp_path / "v")
    shutil.rmtree(tmp_path / "v" / "tiny.py-net--eca--residual-branch")
    with pytest.raises(UsageError, match=r"eca--residual-branch is gone"):
        sweep(tmp_path / "v", f"{TRAIN}:run", tmp_path / "runs", **ASKED)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"mode": "maximum"}, "mode='maximum' is no end of a metric"),
        ({"metric": ""}, "the metric has no name"),
        ({"samples": 0}, "count from 1"),
        ({"config": {"momentum": 0.9}}, "momentum"),
    ],
)
def test_arguments_that_contradict_are_refused(more, said, variants, tmp_path):
    with pytest.raises(UsageError, match=said):
        sweep(variants, f"{TRAIN}:run", tmp_path, **{**ASKED, **more})


def test_without_ray_the_extra_is_named(variants, tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "ray"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError) as error:
        sweep(variants, f"{TRAIN}:run", tmp_path, **ASKED)
    assert error.value.hint == 'pip install "attnsurgeon[sweep]"'


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--train", f"{TRAIN}:rum"], "run"),
        (["--train", f"{TRAIN}:run", "--config", "a"], "is not name=value"),
        (["--train", f"{TRAIN}:run", "--config", "lr=1", "--config", "lr=2"], "given twice"),
        (["--train", f"{TRAIN}:run", "--overwrite"], "--html FILE"),
        (["--train", f"{TRAIN}:run", "--config", "momentum=1"], "momentum"),
        ([], "--train"),
    ],
)
def test_the_command_refuses_in_one_message(argv, said, variants, tmp_path):
    rest = ["--storage", tmp_path / "runs", "--metric", "accuracy", "--mode", "max"]
    done = attnsurgeon("sweep", variants, *argv, *rest)
    assert done.code == 2
    assert said in done.err
    assert "Traceback" not in done.err
    assert done.out == ""


@pytest.mark.parametrize(
    ("address", "error", "said"),
    [
        (None, Exception("The current node timed out during startup."), "Ray does not start here"),
        (None, RuntimeError(), "Ray does not start here: RuntimeError"),
        (
            "here:1",
            ConnectionError("nobody answers"),
            "cannot be reached at here:1: nobody answers",
        ),
    ],
)
def test_a_ray_that_does_not_come_up_is_one_message_whatever_it_raises(
    address, error, said, monkeypatch
):
    def init(**arguments):
        raise error

    ray = SimpleNamespace(is_initialized=lambda: False, init=init)
    monkeypatch.setitem(sys.modules, "ray", ray)
    with pytest.raises(UsageError, match=said), _connected(replace(JOB, address=address)):
        raise AssertionError("nothing is connected")
