"""`--checkpoint` on the command line: what is said, and the options that take more."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import attnsurgeon as library
from tests.cli.command import TINY, attnsurgeon

OF = [f"{TINY}net", "--attn", "se"]
NET = [*OF, "--verify", "none"]


@pytest.fixture
def state() -> dict[str, Any]:
    return library.load_model(f"{TINY}net").state_dict()


def saved(path: Path, value: Any) -> Path:
    torch.save(value, path)
    return path


def test_what_was_taken_is_a_note_on_stderr(tmp_path, state):
    both = {
        "params": state,
        "params_ema": {f"net.{k}": v.clone() for k, v in state.items()},
        "step": 3,
    }
    done = attnsurgeon("insert", *NET, "--checkpoint", saved(tmp_path / "w.pth", both))
    assert done.code == 0
    assert "note: taken from 'params_ema', prefix 'net.' stripped, 2 other entries" in done.err
    assert "params_ema.net, params fit equally: the moving average was taken" in done.err
    assert "fit equally" not in done.out
    chosen = attnsurgeon(
        "insert", *NET, "--checkpoint", tmp_path / "w.pth", "--checkpoint-key", "params"
    )
    assert "note: taken from 'params', 2 other entries left: params_ema, step" in chosen.err


def test_a_plain_state_dict_needs_no_note(tmp_path, state):
    done = attnsurgeon("insert", *NET, "--checkpoint", saved(tmp_path / "w.pth", state))
    assert "taken" not in done.err


def test_another_classifier_is_answered_with_the_option_of_the_command_line(tmp_path):
    other = library.load_model(f"{TINY}net", num_classes=10).state_dict()
    path = saved(tmp_path / "w.pth", other)
    done = attnsurgeon("insert", *NET, "--checkpoint", path)
    assert done.code == 3
    assert "--model-arg num_classes=10" in done.err
    assert "load_model(" not in done.err
    again = attnsurgeon("insert", *NET, "--checkpoint", path, "--model-arg", "num_classes=10")
    assert again.code == 0


def test_partial_lists_what_stays_random(tmp_path, state):
    path = saved(tmp_path / "w.pth", {k: v for k, v in state.items() if k != "fc.bias"})
    refused = attnsurgeon("insert", *NET, "--checkpoint", path)
    assert refused.code == 3
    assert "--partial" in refused.err
    assert "partial=True" not in refused.err
    done = attnsurgeon("insert", *NET, "--checkpoint", path, "--partial")
    assert done.code == 0
    assert "partial: 1 tensor stays as the network was built: fc.bias" in done.err


def test_numbers_that_are_none_are_taken_on_request_and_not_verified(tmp_path, state):
    state["fc.bias"][0] = float("nan")
    path = saved(tmp_path / "w.pth", state)
    refused = attnsurgeon("insert", *NET, "--checkpoint", path)
    assert refused.code == 3
    assert "fc.bias (1 NaN, 0 Inf)" in refused.err
    assert "--accept non-finite" in refused.err
    accepted = attnsurgeon("insert", *NET, "--checkpoint", path, "--accept", "non-finite")
    assert accepted.code == 0
    checked = attnsurgeon(
        "insert", *OF, "--verify", "quick", "--checkpoint", path, "--accept", "non-finite",
        "-o", tmp_path / "out",
    )  # fmt: skip
    assert checked.code == 1
    assert "NaN or Inf in fc.bias" in checked.err
    assert not (tmp_path / "out").exists()


def test_a_network_that_is_another_one_is_taken_for_its_weights_alone_on_request(tmp_path):
    net = library.load_model(f"{TINY}net")
    net.late.norm = torch.nn.InstanceNorm2d(48, affine=True, track_running_stats=True)
    path = saved(tmp_path / "w.pth", net)
    refused = attnsurgeon("insert", *NET, "--checkpoint", path)
    assert refused.code == 3
    assert "--weights-only" in refused.err
    done = attnsurgeon("insert", *NET, "--checkpoint", path, "--weights-only")
    assert done.code == 0
    assert "the weights alone" in done.err


@pytest.mark.parametrize(
    "option",
    [["--partial"], ["--weights-only"], ["--checkpoint-key", "x"], ["--accept", "complex"]],
)
def test_an_option_about_a_checkpoint_that_is_not_there_is_refused(option):
    done = attnsurgeon("insert", *NET, *option)
    assert done.code == 2
    assert f"{option[0]} is about a --checkpoint, and there is none" in done.err


def test_weights_trained_since_are_verified_in_their_folder(tmp_path):
    folder = tmp_path / "out"
    assert attnsurgeon("insert", f"{TINY}net", "--attn", "se", "-o", folder).code == 0
    state = library.load(folder, trust=True).state_dict()
    trained = {f"module.{k}": v + 0.01 if v.dim() else v for k, v in state.items()}
    path = saved(tmp_path / "w.pth", {"model": trained})
    done = attnsurgeon("verify", folder, "--trust-code", "--checkpoint", path)
    assert done.code == 0, done.err
    assert "note: taken from 'model', prefix 'module.' stripped" in done.err
    sent = attnsurgeon("insert", *NET, "--checkpoint", path)
    assert sent.code == 3
    assert "attnsurgeon verify DIR --checkpoint w.pth" in sent.err
