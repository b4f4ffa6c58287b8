"""`insert` from a name to a saved folder."""

import json

import pytest
import torch

import attnsurgeon as library
from attnsurgeon.cli import insert as insert_file
from attnsurgeon.operate import Operation
from tests.cli.command import TINY, attnsurgeon

NET = [f"{TINY}net", "--input-size", "3,40,24"]
BRIEF = ("--repeats", "6", "--warm-up", "0", "--seconds", "0")
# SE on C channels with a hidden layer of C // 16: 2 C m + m + C, on two sites of 32 and one of 48.
SE_PARAMS = 2 * (2 * 32 * 2 + 2 + 32) + (2 * 48 * 3 + 3 + 48)


def test_a_network_is_operated_verified_weighed_and_saved(tmp_path):
    folder = tmp_path / "out"
    done = attnsurgeon("insert", *NET, "--attn", "se", "-o", folder)
    assert (done.code, done.err) == (0, "")
    assert "✓ outputs bit-equal" in done.out
    assert f"+{SE_PARAMS}" in done.out
    assert f"saved to {folder}" in done.out
    assert f"attnsurgeon.load({str(folder)!r}, trust=True)" in done.out
    assert library.load(folder, trust=True).state_dict()["blocks.0.attn.fc1.weight"].shape == (
        2,
        32,
    )
    assert sorted(file.name for file in folder.iterdir()) == [
        "README.md",
        "model.safetensors",
        "surgery.json",
    ]


def test_without_an_output_nothing_is_saved_and_that_is_said(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = attnsurgeon("insert", *NET, "--attn", "se")
    assert done.code == 0
    assert done.err == "note: nothing was saved; -o DIR saves the operated network\n"
    assert list(tmp_path.iterdir()) == []


def test_json_is_one_document_with_what_was_agreed(tmp_path):
    folder = tmp_path / "out"
    done = attnsurgeon("insert", *NET, "--attn", "se", "-o", folder, "--json")
    assert (done.code, done.err) == (0, "")
    record = done.json()
    assert (record["attn"], record["where"], record["init"]) == ("se", "paper", "identity")
    assert record["model"] == f"{TINY}net"
    assert record["output"] == str(folder)
    sites = [
        {k: s[k] for k in ("path", "channels", "module_path", "params")} for s in record["sites"]
    ]
    assert sites == [
        {"path": "blocks.0.norm", "channels": 32, "module_path": "blocks.0.attn", "params": 162},
        {"path": "blocks.1.norm", "channels": 32, "module_path": "blocks.1.attn", "params": 162},
        {"path": "late.norm", "channels": 48, "module_path": "late.attn", "params": 339},
    ]
    cost = record["cost"]
    own = sum(p.numel() for p in library.load_model(f"{TINY}net").parameters())
    assert cost["before"]["params"] == own
    assert cost["after"]["params"] == own + SE_PARAMS
    assert cost["delta"]["params"] == SE_PARAMS
    assert cost["before"]["macs"] < cost["after"]["macs"]
    assert "relu" in cost["uncounted"]
    checked = record["verification"]
    assert checked["identity"] is True
    assert (checked["max_abs_diff"], checked["top1_agreement"]) == (0.0, 1.0)
    assert (checked["missing_keys"], checked["unexpected_keys"]) == ([], [])


def test_the_paper_start_moves_the_outputs_and_is_no_failure():
    record = attnsurgeon("insert", *NET, "--attn", "se", "--init", "paper", "--json").json()
    assert record["verification"]["identity"] is False
    assert record["verification"]["max_abs_diff"] > 0
    assert record["init"] == "paper"


@pytest.mark.parametrize(("how", "extra"), [("quick", False), ("full", True)])
def test_a_full_verification_also_trains(how, extra):
    record = attnsurgeon("insert", *NET, "--attn", "se", "--verify", how, "--json").json()
    assert (record["verification"]["round_trip"] is True) is extra
    assert (record["verification"]["stuck"] == []) is extra


def test_verification_can_be_left_out():
    done = attnsurgeon("insert", *NET, "--attn", "se", "--verify", "none", "--json")
    assert done.json()["verification"] is None


def test_arguments_reach_the_mechanism_and_the_network():
    done = attnsurgeon(
        "insert", *NET, "--attn", "se", "--arg", "reduction=4", "--arg", "bias=false",
        "--model-arg", "num_classes=13", "--json",
    )  # fmt: skip
    record = done.json()
    assert [site["params"] for site in record["sites"]] == [2 * 32 * 8, 2 * 32 * 8, 2 * 48 * 12]
    assert record["sites"][0]["args"] == {"reduction": 4, "bias": False}
    assert record["model_args"] == {"num_classes": 13}


def test_a_rule_file_says_what_goes_where(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(
        "version: 1\nname: mine\nrules:\n"
        "  - id: early\n    match: {site: residual-branch, channels: 32}\n    attn: eca\n"
        "  - id: late\n    match: {site: residual-branch, channels: 48}\n"
        "    attn: {type: se, reduction: 4}\n    init: paper\n"
    )
    record = attnsurgeon("insert", *NET, "--rules", file, "--json").json()
    made = [(s["path"], s["attn"], s["init"], s["rule"]) for s in record["sites"]]
    assert made == [
        ("blocks.0.norm", "eca", "identity", "early"),
        ("blocks.1.norm", "eca", "identity", "early"),
        ("late.norm", "se", "paper", "late"),
    ]
    assert record["attn"] == "eca+se"


def test_weights_of_a_checkpoint_are_loaded_and_what_was_stripped_is_said(tmp_path):
    trained = library.load_model(f"{TINY}net")
    trained.state_dict()["fc.bias"].fill_(0.625)
    state = {f"module.{name}": value for name, value in trained.state_dict().items()}
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "net.pth")
    folder = tmp_path / "out"
    done = attnsurgeon(
        "insert", *NET, "--attn", "se", "--checkpoint", tmp_path / "net.pth", "-o", folder
    )
    assert done.code == 0
    assert "checkpoint net.pth; stripped state_dict, module." in done.out
    assert library.load(folder, trust=True).state_dict()["fc.bias"].tolist() == [0.625] * 7


def test_that_no_trained_weights_were_loaded_is_said_loudly():
    done = attnsurgeon("insert", "resnet18", "--attn", "eca", "--verify", "none")
    assert "RANDOM, not trained" in done.out


def test_an_adapter_holds_the_attention_alone(tmp_path):
    model = library.load_model(f"{TINY}net")
    torch.save(model.state_dict(), tmp_path / "net.pth")
    folder = tmp_path / "out"
    done = attnsurgeon(
        "insert", *NET, "--attn", "se", "--checkpoint", tmp_path / "net.pth", "--save", "adapter",
        "-o", folder,
    )  # fmt: skip
    assert (done.code, done.err) == (0, "")
    assert (folder / "adapter.safetensors").is_file()
    assert not (folder / "model.safetensors").exists()


def test_a_dry_run_loads_no_weights_and_writes_nothing(tmp_path):
    folder = tmp_path / "out"
    dry = attnsurgeon("insert", *NET, "--attn", "se", "--dry-run", "-o", folder, "--json")
    planned = attnsurgeon("plan", *NET, "--attn", "se", "--json")
    assert dry.json() == planned.json()
    assert dry.json()["verification"] is None
    assert dry.json()["weights"] == "none"
    assert not folder.exists()


def test_an_existing_folder_is_replaced_only_when_asked(tmp_path):
    folder = tmp_path / "out"
    assert attnsurgeon("insert", *NET, "--attn", "eca", "-o", folder).code == 0
    done = attnsurgeon("insert", *NET, "--attn", "se", "-o", folder)
    assert done.code == 2
    assert "--overwrite" in done.err
    assert json.loads((folder / "surgery.json").read_text())["operations"][0]["attn"] == "eca"
    assert attnsurgeon("insert", *NET, "--attn", "se", "-o", folder, "--overwrite").code == 0
    assert json.loads((folder / "surgery.json").read_text())["operations"][0]["attn"] == "se"


def test_the_output_folder_is_looked_at_before_any_work(tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    monkeypatch.setattr(insert_file, "_insert", None)  # would fail: nothing must get this far
    assert attnsurgeon("insert", *NET, "--attn", "se", "-o", tmp_path / "out").code == 2


@pytest.mark.parametrize(
    ("limit", "code"),
    [
        (["--max-params", "+2%"], 0),
        (["--max-params", "+1%"], 1),
        (["--max-params", f"+{SE_PARAMS}"], 0),
        (["--max-params", f"+{SE_PARAMS - 1}"], 1),
        (["--max-macs", "+1%"], 0),
        (["--max-macs", "+0.1%"], 1),
    ],
)
def test_a_budget_refuses_what_is_too_dear_and_writes_nothing(limit, code, tmp_path):
    folder = tmp_path / "out"
    done = attnsurgeon("insert", *NET, "--attn", "se", *limit, "-o", folder, "--json")
    assert done.code == code
    assert folder.exists() is (code == 0)
    assert done.json()["output"] == (str(folder) if code == 0 else None)
    assert ("is exceeded" in done.err) is (code == 1)
    assert attnsurgeon("insert", *NET, "--attn", "se", *limit, "--dry-run").code == code


def test_a_latency_budget_measures_and_refuses(tmp_path):
    folder = tmp_path / "out"
    done = attnsurgeon(
        "insert", *NET, "--attn", "se", "--max-latency", "0.001us", "-o", folder, "--json", *BRIEF
    )
    assert done.code == 1
    assert "max_latency" in done.err
    assert done.json()["latency"]["forward"]["pairs"] > 1
    assert not folder.exists()


@pytest.mark.parametrize(("limit", "code"), [("+0%", 1), ("1kB", 1), ("+900%", 0), ("1GB", 0)])
def test_a_memory_budget_measures_that_alone_and_refuses(limit, code, tmp_path):
    folder = tmp_path / "out"
    words = ("--attn", "se", "--max-memory", limit, "--batch", "2", "--json")
    done = attnsurgeon("insert", *NET, *words, "-o", folder)
    assert done.code == code
    assert folder.exists() is (code == 0)
    assert (f"max_memory {limit} is exceeded" in done.err) is (code == 1)
    record = done.json()["latency"]
    assert (record["forward"], record["training_step"], record["batch"]) == (None, None, 2)
    for name in ("plan", "insert"):  # which builds it with random weights, and writes nothing
        dry = attnsurgeon(name, *NET, *words, *(["--dry-run"] if name == "insert" else []))
        assert dry.code == code
        assert dry.json()["latency"] == record


@pytest.mark.parametrize(
    "limit",
    [["--max-params", "+0"], ["--max-latency", "0.001us", *BRIEF], ["--max-memory", "1B"]],
)
def test_a_budget_is_held_before_the_long_checks(limit, monkeypatch):
    def verify(self, *, full):
        raise AssertionError("too late")

    monkeypatch.setattr(Operation, "verify", verify)
    done = attnsurgeon("insert", *NET, "--attn", "se", *limit, "--json")
    assert done.code == 1
    assert "is exceeded" in done.err
    assert done.json()["verification"] is None


def test_how_latency_is_measured_is_said_and_threads_are_put_back():
    usual = torch.get_num_threads()
    words = ("--latency", "--batch", "3", "--threads", "2", "--repeats", "2", "--warm-up", "0")
    words += ("--device", "cpu", "--seconds", "0")
    record = attnsurgeon("insert", *NET, "--attn", "se", *words, "--json").json()["latency"]
    names = ("batch", "threads", "device", "dtype", "limit_seconds")
    assert [record[name] for name in names] == [3, 2, "cpu", "float32", 0.0]
    for kind in ("forward", "training_step"):
        assert (record[kind]["pairs"], record[kind]["warm_up_pairs"]) == (2, 0)
        assert record[kind]["undecided"] is True
    assert torch.get_num_threads() == usual


def test_verification_of_a_small_network_runs_in_one_thread(monkeypatch):
    seen = []
    verify = Operation.verify

    def looking(self, *, full):
        seen.append(torch.get_num_threads())
        return verify(self, full=full)

    monkeypatch.setattr(Operation, "verify", looking)
    usual = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        assert attnsurgeon("insert", *NET, "--attn", "se").code == 0
        assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(usual)
    assert seen == [1]


def test_latency_is_measured_when_asked():
    words = ("--latency", "--batch", "2", *BRIEF)
    done = attnsurgeon("insert", *NET, "--attn", "se", *words, "--json")
    record = done.json()["latency"]
    for kind in ("forward", "training_step"):
        for when in ("before", "after"):
            spread = record[kind][when]
            assert 0 < spread["q1_seconds"] <= spread["median_seconds"] <= spread["q3_seconds"]
            assert spread["low_seconds"] <= spread["median_seconds"] <= spread["high_seconds"]
    memory = record["training_memory"]
    assert memory["before_bytes"] > 0 < memory["delta_bytes"]
    assert memory["after_bytes"] == memory["before_bytes"] + memory["delta_bytes"]
    assert memory["counts"] == "saved tensors"
    text = attnsurgeon("insert", *NET, "--attn", "se", *words).out
    for row in ("forward", "training step", "step memory"):
        assert f"  {row} " in text
    assert attnsurgeon("insert", *NET, "--attn", "se", "--json").json()["latency"] is None


def test_a_failed_verification_writes_nothing_and_exits_with_1(tmp_path, monkeypatch):
    verify = Operation.verify

    def broken(self, *, full):
        with torch.no_grad():  # as a cut that loses the identity would
            for name, parameter in self.model.named_parameters():
                if "attn.fc2" in name:
                    parameter.fill_(1.0)
        return verify(self, full=full)

    monkeypatch.setattr(Operation, "verify", broken)
    folder = tmp_path / "out"
    done = attnsurgeon("insert", *NET, "--attn", "se", "-o", folder)
    assert done.code == 1
    assert "✗ outputs move" in done.out
    assert "fails its verification: outputs moved" in done.err
    assert not folder.exists()


def test_a_repeatable_run_gives_the_same_document():
    argv = ["insert", "resnet18", "--attn", "se", "--verify", "none", "--json"]
    assert attnsurgeon(*argv).json() == attnsurgeon(*argv).json()
