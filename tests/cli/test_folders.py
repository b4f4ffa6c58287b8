"""The commands that read a saved folder: verify, report, export."""

import importlib.util
import json

import pytest
import torch

import attnsurgeon as library
from attnsurgeon.exporting import programs
from tests.cli.command import TINY, attnsurgeon

NET = [f"{TINY}net", "--input-size", "3,40,24"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "net-eca"
    assert attnsurgeon("insert", *NET, "--attn", "eca", "-o", path).code == 0
    return path


def test_a_saved_folder_verifies(folder):
    done = attnsurgeon("verify", folder, "--trust-code")
    assert (done.code, done.err) == (0, "")
    assert "✗" not in done.out
    for part in (
        "loads: 3 modules",
        "weights that were operated on",
        "optimiser steps",
        "deepcopy",
    ):
        assert part in done.out


def test_a_verification_as_json_has_every_part(folder):
    record = attnsurgeon("verify", folder, "--trust-code", "--json").json()
    assert (record["ok"], record["problems"], record["base_kept"]) == (True, [], True)
    assert record["now"]["identity"] is True
    assert record["afresh"][0]["stuck"] == []
    assert set(record["audit"]["calls"].values()) == {1}


def test_a_trained_network_still_verifies_and_is_said_to_have_moved(folder, tmp_path):
    operation = library.insert(library.load_model(f"{TINY}net"), "eca", input_size=(3, 40, 24))
    with torch.no_grad():
        for parameter in operation.model.parameters():
            parameter.add_(0.1)
    operation.save(tmp_path / "trained")
    record = attnsurgeon("verify", tmp_path / "trained", "--trust-code", "--json").json()
    assert (record["ok"], record["base_kept"]) == (True, False)
    assert record["now"]["identity"] is False


def test_a_folder_with_changed_weights_is_refused(folder, tmp_path):
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in folder.iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    weights = bytearray((broken / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (broken / "model.safetensors").write_bytes(weights)
    done = attnsurgeon("verify", broken, "--trust-code")
    assert (done.code, done.out) == (3, "")
    assert "sha256" in done.err


def test_an_attention_that_is_never_called_fails_the_verification(folder, monkeypatch):
    from attnsurgeon import checkup
    from attnsurgeon.checks.auditing import Audit

    lost = Audit({"late.attn": 0}, ("late.attn",), {})
    monkeypatch.setattr(checkup, "audit", lambda model, example: lost)
    done = attnsurgeon("verify", folder, "--trust-code")
    assert done.code == 1
    assert "never called: late.attn" in done.err
    assert "✗ inserted modules never run: late.attn" in done.out


def test_an_adapter_is_verified_with_its_checkpoint(tmp_path):
    torch.save(library.load_model(f"{TINY}net").state_dict(), tmp_path / "net.pth")
    path = tmp_path / "adapter"
    made = attnsurgeon(
        "insert", *NET, "--attn", "eca", "--checkpoint", tmp_path / "net.pth", "--save", "adapter",
        "-o", path,
    )  # fmt: skip
    assert made.code == 0
    assert attnsurgeon("verify", path, "--trust-code").code == 3
    assert (
        attnsurgeon("verify", path, "--trust-code", "--checkpoint", tmp_path / "net.pth").code == 0
    )


def test_the_base_can_be_named_where_the_folder_does_not_know_it(tmp_path):
    from tests.cli.tiny import net

    path = tmp_path / "own"
    library.insert(net(), "eca", input_size=(3, 40, 24)).save(path)
    assert attnsurgeon("verify", path, "--trust-code").code == 3
    done = attnsurgeon("verify", path, "--base", "tests.cli.tiny:net")
    assert (done.code, done.err) == (0, "")


def test_a_report_shows_what_was_done(folder):
    done = attnsurgeon("report", folder)
    assert (done.code, done.err) == (0, "")
    assert "blocks.0.norm … blocks.1.norm" in done.out
    assert "+9" in done.out
    record = attnsurgeon("report", folder, "--json").json()
    assert record["cost"]["delta"]["params_percent"] == pytest.approx(100 * 9 / 37544)
    assert [site["params"] for site in record["sites"]] == [3, 3, 3]


def test_a_report_of_two_operations_names_both(tmp_path):
    model = library.load_model(f"{TINY}net")
    library.insert(model, "eca", input_size=(3, 40, 24), inplace=True)
    library.insert(model, "simam", "stem", input_size=(3, 40, 24), inplace=True).save(
        tmp_path / "two"
    )
    record = attnsurgeon("report", tmp_path / "two", "--json").json()
    assert record["attn"] == "eca+simam"
    assert [site["attn"] for site in record["sites"]] == ["eca"] * 3 + ["simam"]
    assert attnsurgeon("verify", tmp_path / "two", "--trust-code").code == 0


def test_a_report_becomes_one_html_file(folder, tmp_path):
    file = tmp_path / "report.html"
    done = attnsurgeon("report", folder, "--html", file)
    assert (done.code, done.out, done.err) == (0, "", f"{file} written\n")
    text = file.read_text(encoding="utf-8")
    assert "37,553" in text
    assert "</html>" in text


@pytest.mark.slow
def test_an_exported_program_computes_what_the_network_does(folder, tmp_path):
    file = tmp_path / "net.pt2"
    done = attnsurgeon("export", folder, "--trust-code", "-o", file, "--dynamic-batch", "--json")
    assert done.code == 0
    assert done.json()["batches"] == [1, 3]
    program = torch.export.load(file).module()
    model = library.load(folder, trust=True).eval()
    x = torch.randn(5, 3, 40, 24)
    torch.testing.assert_close(program(x), model(x), rtol=0, atol=1e-6)
    assert list(tmp_path.iterdir()) == [file]


def test_a_report_does_not_replace_a_file_unless_asked(folder, tmp_path):
    file, link = tmp_path / "precious.txt", tmp_path / "report.html"
    file.write_text("precious")
    link.symlink_to(file)
    for name in (file, link):
        done = attnsurgeon("report", folder, "--html", name)
        assert (done.code, done.out) == (2, "")
        assert f"{name} exists" in done.err
        assert "--overwrite" in done.err
    assert attnsurgeon("report", folder, "--html", link, "--overwrite").code == 0
    assert file.read_text() == "precious"  # the link was replaced, not what it led to
    assert "</html>" in link.read_text()
    assert {entry.name for entry in tmp_path.iterdir()} == {"precious.txt", "report.html"}


def test_overwrite_without_a_file_to_write_is_refused(folder):
    done = attnsurgeon("report", folder, "--overwrite")
    assert done.code == 2
    assert "--html FILE" in done.err


def test_an_export_that_computes_something_else_is_not_kept(folder, tmp_path, monkeypatch):
    read = programs.READERS["torch-export"]

    def wrong(file):
        run = read(file)
        return lambda x: [y + 1 for y in run(x)]

    monkeypatch.setitem(programs.READERS, "torch-export", wrong)
    done = attnsurgeon("export", folder, "--trust-code", "-o", tmp_path / "net.pt2")
    assert done.code == 1
    assert "differs from the network" in done.err
    assert list(tmp_path.iterdir()) == []


def test_an_export_does_not_replace_a_file_unless_asked(folder, tmp_path):
    file = tmp_path / "net.pt2"
    file.write_text("precious")
    assert attnsurgeon("export", folder, "--trust-code", "-o", file).code == 2
    assert file.read_text() == "precious"
    assert attnsurgeon("export", folder, "--trust-code", "-o", file, "--overwrite").code == 0
    assert file.read_bytes()[:2] == b"PK"


def test_onnx_without_its_packages_names_the_extra(folder, tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if "onnx" in name else find(name, *a)
    )
    done = attnsurgeon(
        "export", folder, "--trust-code", "--format", "onnx", "-o", tmp_path / "net.onnx"
    )
    assert done.code == 2
    assert 'pip install "attnsurgeon[export]"' in done.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime")),
    reason="an optional extra: pip install attnsurgeon[export]",
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_an_onnx_file_computes_what_the_network_does(folder, tmp_path):
    done = attnsurgeon("export", folder, "--trust-code", "-o", tmp_path / "net.onnx", "--json")
    assert done.code == 0
    assert done.json()["format"] == "onnx"
    assert json.loads(done.out)["relative_diff"] < 1e-4
