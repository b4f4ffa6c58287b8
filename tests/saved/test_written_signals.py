"""Folders of networks of signals that a version wrote to which (N, C, L) was a row of tokens."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load

import attnsurgeon
from attnsurgeon.splicing.history import history
from tests.saved.written_signals import network

ARCHIVE = Path(__file__).parent / "written_signals" / "0.1.zip"
with zipfile.ZipFile(ARCHIVE) as _opened:
    OUTPUTS = load(_opened.read("outputs.safetensors"))
WHILE_WORKING = ("scse-identity",)  # whose convolution is of two axes
CASES = [
    pytest.param(case, marks=() if case in WHILE_WORKING else pytest.mark.slow) for case in OUTPUTS
]


def unpacked(case: str, to: Path) -> Path:
    with zipfile.ZipFile(ARCHIVE) as opened:
        opened.extractall(to, [n for n in opened.namelist() if n.startswith(f"folders/{case}/")])
    return to / "folders" / case


@pytest.mark.parametrize("case", sorted(CASES))
def test_a_folder_is_loaded_and_operated_and_saved_again(case, tmp_path):
    model = attnsurgeon.load(unpacked(case, tmp_path), trust=True).eval()
    (record,) = history(model)
    assert {cut["layout"] for cut in record["sites"]} == {"NCL"}
    assert not any(cut.get("rank") for cut in record["sites"])  # they are still read as tokens
    attnsurgeon.insert(model, "eca", "stage", input_size=(3, 60)).save(tmp_path / "twice")
    for restored in (model, attnsurgeon.load(tmp_path / "twice", trust=True).eval()):
        with torch.no_grad():
            made = restored(network.signal())
        torch.testing.assert_close(made, OUTPUTS[case], rtol=1e-4, atol=1e-5)


def test_what_is_written_now_says_its_rank_and_has_convolutions_of_one_axis(tmp_path):
    operation = attnsurgeon.insert(
        attnsurgeon.load_model("tests.saved.written_signals.network:make"),
        *("scse", "residual-branch"),
        input_size=(3, 60),
    )
    operation.save(tmp_path / "now")
    model = attnsurgeon.load(tmp_path / "now", trust=True)
    assert [cut["rank"] for cut in history(model)[0]["sites"]] == [1, 1, 1]
    assert model.get_parameter("layer1.0.attn.conv.weight").dim() == 3
