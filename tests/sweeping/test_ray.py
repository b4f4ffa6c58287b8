"""Sweeps on Ray's own engine: killed workers, a killed sweep, failures, a cluster."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import attnsurgeon as surgeon
from tests.cli.command import TINY

pytest.importorskip("ray.tune")
pytestmark = pytest.mark.nightly

ROOT = Path(__file__).parents[2]
TRAIN = ROOT / "tests" / "sweeping" / "training.py"
HEAD = """
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
print(cluster.address, flush=True)
input()
cluster.shutdown()
"""


@pytest.fixture
def variants(tmp_path):
    folder = tmp_path / "variants"
    surgeon.compare(
        f"{TINY}net", ["eca", "se", "srm"], "residual-branch",
        input_size=(3, 40, 24), save_all=folder, verify="none",
    )  # fmt: skip
    return folder


def started(variants, train, *options, **popen):
    command = [sys.executable, "-m", "attnsurgeon", "sweep", str(variants)]
    command += ["--train", f"{TRAIN}:{train}", "--storage", str(variants.parent / "runs")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*command, *map(str, options)], cwd=ROOT, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, **popen,
    )  # fmt: skip


def swept(variants, train, *options):
    process = started(variants, train, *options)
    out, err = process.communicate(timeout=900)
    assert "Traceback" not in err
    return process.returncode, out, err


def reported(variants, key):
    """Of each trial the values that were reported of a metric."""
    files = (variants.parent / "runs").glob("*/variant_*/result.json")
    return [
        [json.loads(line)[key] for line in file.read_text().splitlines()] for file in sorted(files)
    ]


def trained(variants):
    record = json.loads((variants / "index.json").read_text())
    return {row["attn"]: row["trained"] for row in record["rows"]}


def test_workers_that_are_killed_are_taken_up_where_they_were(variants, tmp_path):
    deaths = tmp_path / "deaths"
    deaths.mkdir()
    options = ["--metric", "accuracy", "--mode", "max", "--config", f"deaths={deaths}", "--json"]
    code, out, err = swept(variants, "run", *options)
    assert code == 0, err
    assert len(list(deaths.iterdir())) == 3
    assert reported(variants, "begin") == [[0, 1, 1]] * 3  # the first epoch was not made again
    rows = json.loads(out)["rows"]
    counted = {row["attn"]: 3 * row["delta"]["params"] for row in rows}
    assert {row["attn"]: row["trained"]["value"] for row in rows} == counted
    assert [row["attn"] for row in rows] == sorted(counted, key=lambda a: -counted[a])

    code, again, err = swept(variants, "run", *options)  # nothing is left to do
    assert code == 0, err
    assert json.loads(again) == json.loads(out)
    assert reported(variants, "begin") == [[0, 1, 1]] * 3


def test_a_sweep_that_is_killed_goes_on(variants, tmp_path):
    armed = tmp_path / "armed"
    armed.write_text("")
    options = ["--metric", "loss", "--mode", "min", "--config", f"armed={armed}", "--json"]
    process = started(variants, "waiting", *options, start_new_session=True)
    runs = variants.parent / "runs"
    try:
        until = time.monotonic() + 840  # on a busy machine Ray takes minutes to start
        while time.monotonic() < until:
            known = list(runs.glob("*/experiment_state-*.json"))
            waiting = list(runs.glob("*/variant_*/checkpoint_000001"))
            if len(waiting) >= 2 and any("checkpoint_000001" in one.read_text() for one in known):
                break
            assert process.poll() is None
            time.sleep(0.5)
        else:
            raise AssertionError("it never came to the middle")
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    armed.unlink()
    code, out, err = swept(variants, "waiting", *options)
    assert code == 0, err
    assert [row["trained"]["value"] for row in json.loads(out)["rows"]] == [1 / 3] * 3
    assert sorted(begins[-1] for begins in reported(variants, "begin")) == [0, 2, 2]


def test_the_best_counts_and_its_checkpoint_is_kept_whatever_comes_after_it(variants):
    code, _, err = swept(variants, "wavering", "--metric", "accuracy", "--mode", "max")
    assert code == 0, err
    for found in trained(variants).values():
        assert (found["value"], found["reports"]) == (0.9, 4)
        assert (Path(found["checkpoint"]) / "epoch").read_text() == "2"


def test_what_fails_is_said_of_each_variant(variants):
    options = ["--metric", "accuracy", "--mode", "max", "--max-failures", "0"]
    code, _, err = swept(variants, "failing", *options)
    assert code == 1
    assert "all 3 trials failed" in err
    errors = {attn: found["error"] for attn, found in trained(variants).items()}
    assert "ValueError: the images are gone" in errors["eca"]
    assert "no 'accuracy' was reported" in errors["se"]
    assert "returned without a report" in errors["srm"]


def test_a_cluster_is_reached_by_its_address(variants, tmp_path):
    starts = tmp_path / "starts"
    starts.mkdir()
    environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0"}
    head = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", HEAD], env=environment, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        address = head.stdout.readline().strip()
        options = ["--metric", "accuracy", "--mode", "max", "--address", address, "--json"]
        options += ["--config", f"starts={starts}"]
        stopping = ["--scheduler", "asha(max_t=3, grace_period=1, reduction_factor=2)"]
        code, out, err = swept(variants, "falling_behind", *options, *stopping)
    finally:
        head.communicate("\n", timeout=60)
    assert code == 0, err
    values = {row["attn"]: row["trained"] for row in json.loads(out)["rows"]}
    assert all(one["value"] is not None for one in values.values())
    assert min(one["reports"] for one in values.values()) < 3  # what was behind was stopped
    assert max(one["reports"] for one in values.values()) == 3
