"""`attnsurgeon status`: what stands where in a saved network, and what of it learns."""

import pytest
import torch

import attnsurgeon as library
from tests.cli.command import TINY, attnsurgeon

NET = [f"{TINY}net", "--input-size", "3,40,24"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("status") / "out"
    done = attnsurgeon("insert", *NET, "--attn", "se", "-o", made)
    assert done.code == 0, done.err
    return made


def test_a_saved_network_says_what_stands_where(folder):
    record = attnsurgeon("status", folder, "--trust-code", "--json").json()
    sites = record["sites"]
    assert [site["path"] for site in sites] == ["blocks.0.norm", "blocks.1.norm", "late.norm"]
    assert [(site["attn"], site["channels"], site["params"]) for site in sites] == [
        ("se", 32, 162), ("se", 32, 162), ("se", 48, 339),
    ]  # fmt: skip
    assert [(site["trainable"], site["gate"], site["runs"]) for site in sites] == [
        (162, 1, 1), (162, 1, 1), (339, 1, 1),
    ]  # fmt: skip
    assert record["params"] == 663
    assert record["trainable_params"] == record["all_params"] == 38_207
    assert record["trainable_percent"] == 100


def test_the_terminal_says_the_same(folder):
    done = attnsurgeon("status", folder, "--trust-code")
    assert (done.code, done.err) == (0, "")
    row = "blocks.0.norm … blocks.1.norm  ×2  32     162  yes        1.000  yes"  # noqa: RUF001
    assert row in done.out
    assert "trainable params: 38,207 || all params: 38,207 || trainable%: 100.0000" in done.out


def test_weights_that_were_trained_since_are_looked_at(folder, tmp_path):
    model = library.load(folder, trust=True)
    with torch.no_grad():
        model.get_parameter("late.attn.fc2.bias").fill_(-20.0)  # closes the gate
    torch.save(model.state_dict(), tmp_path / "trained.pth")
    argv = ["status", folder, "--trust-code", "--checkpoint", tmp_path / "trained.pth", "--json"]
    gates = [site["gate"] for site in attnsurgeon(*argv).json()["sites"]]
    assert gates[:2] == [1, 1]
    assert gates[2] < 1e-6


def test_what_is_no_folder_is_refused(tmp_path):
    done = attnsurgeon("status", tmp_path / "nowhere")
    assert (done.code, done.out) == (3, "")
    assert "does not exist" in done.err
