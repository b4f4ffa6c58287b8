"""Training in several processes, under torchrun, is training in one; checkpoints go anywhere."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import attnsurgeon
from tests.cli.tiny import Net
from tests.training.distributed_job import KEPT, base_of, batch, load_checkpoint, operated

ROOT = Path(__file__).parents[2]
WAYS = ["ddp", "network", "blocks"]
# kind, attention, init, placement: a gate, one shared by all sites, one that hands maps on, a
# fusion, a replaced convolution, an excited weight, a head.
CASES = [
    ["resnet", "eca", "identity", ""],
    ["resnet", "dia", "identity", ""],
    ["resnet", "dca", "paper", ""],
    ["resnet", "aff", "identity", ""],
    ["resnet", "sk", "paper", ""],
    ["resnet", "we", "identity", ""],
    ["resnet", "csra", "paper", ""],
    ["vit", "cbam", "identity", "residual-branch"],
    ["vit", "dia", "paper", ""],
]
NEAR = 1e-9  # in float64, where sums may be taken in another order


def run(processes: int, *arguments: str) -> list[dict]:
    """What the first process printed."""
    command = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", str(processes), "-m", "tests.training.distributed_job"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def far(results: list[dict]) -> list[dict]:
    """Those that are not what one process has; weights that did not move would hide it."""
    return [
        one
        for one in results
        if one["loss"] > NEAR or one["weights"] > NEAR or one["names"] or one["moved"] < 1e-4
    ]


@pytest.mark.parametrize(
    "cases",
    [
        pytest.param(CASES[:2], marks=pytest.mark.slow, id="two"),
        pytest.param(CASES[2:], marks=pytest.mark.nightly, id="others"),
    ],
)
def test_losses_and_weights_are_those_of_one_process(cases):
    results = run(2, "compare", json.dumps([[*case, *WAYS] for case in cases]))
    assert len(results) == len(cases) * len(WAYS)
    assert far(results) == []


@pytest.mark.nightly
@pytest.mark.parametrize("init", ["identity", "paper"])
def test_every_mechanism_is_trained_in_two_processes_as_in_one(init):
    elsewhere = {"coord": "residual-branch", "simam": "conv3x3"}
    cases = [
        ["resnet", name, init, elsewhere.get(name, ""), "ddp", "blocks"]
        for name in attnsurgeon.mechanisms()
        if name != "attention-gate"  # which is for skips, and a ResNet has none
    ]
    results = run(2, "compare", json.dumps(cases))
    assert len(results) == 2 * len(cases)
    assert far(results) == []


@pytest.mark.nightly
def test_a_checkpoint_goes_on_in_another_number_of_processes_and_in_a_folder(tmp_path):
    written = {one["kind"]: one["losses"] for one in run(2, "write", str(tmp_path))}
    assert set(written) == {"resnet", "vit"}
    assert all(first != second for first, second in written.values())  # it does learn
    read = {one["kind"]: one["losses"] for one in run(3, "read", str(tmp_path))}
    assert read.keys() == written.keys()
    for kind, attn in KEPT:
        assert read[kind] == pytest.approx(written[kind], abs=NEAR)
        folder = attnsurgeon.load(tmp_path / f"{kind}-whole", model=base_of(kind))
        alone = operated(kind, attn, "identity", seed=5)  # other weights, until they are read
        before = loss(alone)
        with pytest.warns(UserWarning, match="single process"):
            load_checkpoint(
                {"model": alone.state_dict()}, checkpoint_id=tmp_path / f"{kind}-middle"
            )
        assert loss(folder) == loss(alone) == pytest.approx(written[kind][0], abs=NEAR)
        assert loss(alone) != before
        assert attnsurgeon.audit(folder).ok


def loss(net: torch.nn.Module) -> float:
    x, y = batch(2)
    with torch.no_grad():
        return torch.nn.functional.cross_entropy(net.train()(x), y).item()


@pytest.mark.nightly
def test_attention_that_was_trained_alone_is_gathered_into_an_adapter(tmp_path):
    torch.manual_seed(0)
    torch.save(Net().state_dict(), tmp_path / "base.pt")
    results = run(2, "adapter", str(tmp_path))
    assert results == [{"moved": 12, "same": True, "keys": len(Net().state_dict()) + 12}]
