"""timm builds the network of a folder: by its registry, its names for folders, its own scripts."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.models import _registry

import attnsurgeon
import attnsurgeon.integrations.timm
from attnsurgeon.errors import ModelError, UsageError
from attnsurgeon.splicing.history import inserted
from tests.saved import networks
from tests.saved.test_hub import Hub, hub  # noqa: F401


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    model = attnsurgeon.insert(
        attnsurgeon.load_model("test_resnet", num_classes=7), "eca", "residual-branch"
    ).model
    networks.randomise(model)
    return attnsurgeon.save(model, tmp_path_factory.mktemp("timm") / "out")


def test_the_folder_by_the_name_of_the_registry_and_by_its_place(folder):
    saved = attnsurgeon.load(folder)
    for made in (
        timm.create_model("attnsurgeon", folder=folder, pretrained=True),
        timm.create_model(f"local-dir:{folder}", pretrained=True),
    ):
        networks.assert_same(made, saved)
        assert (
            made.pretrained_cfg["mean"] == timm.create_model("test_resnet").pretrained_cfg["mean"]
        )


def test_the_card_of_the_folder_says_how_timm_builds_it(folder, monkeypatch):
    card = (folder / "README.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    assert len(blocks) == 2
    monkeypatch.chdir(folder.parent)
    ways: list[dict[str, Any]] = [{}, {}]
    for block, names in zip(blocks, ways, strict=True):
        exec(block, names)
    networks.assert_same(ways[1]["model"], ways[0]["model"])
    assert "`python -m attnsurgeon.integrations.timm validate.py" in card


def test_the_card_of_an_adapter_names_no_way_that_would_start_from_other_weights(tmp_path):
    operation = attnsurgeon.insert(attnsurgeon.load_model("test_resnet"), "eca", "residual-branch")
    plain = operation.save(tmp_path / "full")
    assert "create_model" in (plain / "README.md").read_text()
    torch.save(attnsurgeon.load_model("test_resnet").state_dict(), tmp_path / "base.pth")
    base = attnsurgeon.load_model("test_resnet", checkpoint=tmp_path / "base.pth")
    adapter = attnsurgeon.insert(base, "eca", "residual-branch").save(
        tmp_path / "adapter", mode="adapter"
    )
    assert (adapter / "config.json").is_file()
    assert "create_model" not in (adapter / "README.md").read_text()


@pytest.mark.slow
def test_without_pretrained_it_has_the_attention_and_weights_of_its_own(folder):
    saved = attnsurgeon.load(folder)
    torch.manual_seed(3)
    made = timm.create_model(f"local-dir:{folder}")
    torch.manual_seed(3)
    again = timm.create_model(f"local-dir:{folder}")
    assert list(made.state_dict()) == list(saved.state_dict())
    assert [path for path, _ in inserted(made)] == [path for path, _ in inserted(saved)]
    assert not torch.equal(made.conv1[0].weight, saved.conv1[0].weight)
    networks.assert_same(made, again)


@pytest.mark.slow
def test_other_classes_reset_the_classifier_and_nothing_else(folder):
    saved = attnsurgeon.load(folder)
    made = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=10)
    assert made.fc.out_features == made.num_classes == 10
    for name, tensor in saved.state_dict().items():
        assert name.startswith("fc.") or torch.equal(made.state_dict()[name], tensor)


@pytest.mark.slow
def test_further_arguments_reach_the_base(folder):
    made = timm.create_model(f"local-dir:{folder}", pretrained=True, drop_rate=0.25)
    assert made.drop_rate == 0.25
    networks.assert_same(made, attnsurgeon.load(folder))
    own = timm.create_model("attnsurgeon", folder=folder, pretrained=True, device="meta")
    assert own.fc.weight.is_meta
    with pytest.raises(ModelError, match="dorp_rate"):
        timm.create_model(f"local-dir:{folder}", pretrained=True, dorp_rate=0.25)
    with pytest.raises(UsageError, match="takes 3 input channels, not 1"):
        timm.create_model(f"local-dir:{folder}", in_chans=1)
    with pytest.raises(UsageError, match="none is named"):
        timm.create_model("attnsurgeon")


@pytest.mark.slow
def test_a_checkpoint_of_timms_saver_goes_in_by_timms_own_argument(folder, tmp_path):
    trained = attnsurgeon.load(folder)
    networks.randomise(trained, seed=8)
    optimizer = torch.optim.SGD(trained.parameters(), lr=0.1)
    timm.utils.CheckpointSaver(trained, optimizer, checkpoint_dir=str(tmp_path)).save_checkpoint(0)
    made = timm.create_model(f"local-dir:{folder}", checkpoint_path=str(tmp_path / "last.pth.tar"))
    networks.assert_same(made, trained)
    networks.assert_same(attnsurgeon.load(folder, checkpoint=tmp_path / "last.pth.tar"), trained)


def test_a_file_in_the_place_of_the_pretrained_weights_is_what_is_loaded(folder, tmp_path):
    """timm's `--pretrained-path`: an overlay of its config, with -1 classes for a new head."""
    trained = attnsurgeon.load(folder)
    networks.randomise(trained, seed=8)
    torch.save({"state_dict": trained.state_dict()}, tmp_path / "trained.pth")
    name, file = f"local-dir:{folder}", str(tmp_path / "trained.pth")
    overlay = {"file": file}
    networks.assert_same(
        timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay), trained
    )
    for how in ({"pretrained_cfg": overlay}, {"pretrained_cfg_overlay": overlay}):
        made = timm.create_model("attnsurgeon", folder=folder, pretrained=True, **how)
        networks.assert_same(made, trained)

    new = {**overlay, "num_classes": -1, "mean": (0.1, 0.2, 0.3)}
    torch.manual_seed(5)
    made = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=new, num_classes=7)
    torch.manual_seed(5)
    random = timm.create_model(name)
    assert made.pretrained_cfg["mean"] == (0.1, 0.2, 0.3)
    assert timm.create_model(name).pretrained_cfg["mean"] == (0.5, 0.5, 0.5)
    for key, tensor in trained.state_dict().items():
        expected = random.state_dict()[key] if key.startswith("fc.") else tensor
        assert torch.equal(made.state_dict()[key], expected)

    untouched = timm.create_model(name, pretrained=True)
    networks.assert_same(untouched, attnsurgeon.load(folder))


def test_both_classifiers_of_a_distilled_network_start_anew(tmp_path):
    name, small = "deit_tiny_distilled_patch16_224", {"depth": 1, "embed_dim": 32, "num_heads": 2}
    model = attnsurgeon.load_model(name, img_size=32, patch_size=8, num_classes=5, **small)
    operation = attnsurgeon.insert(model, "se", "residual-branch", input_size=(3, 32, 32))
    operation.save(tmp_path / "saved")
    trained = attnsurgeon.load(tmp_path / "saved")
    networks.randomise(trained, seed=8)
    torch.save(trained.state_dict(), tmp_path / "trained.pth")
    new = {"file": str(tmp_path / "trained.pth"), "num_classes": -1}
    made = timm.create_model(
        f"local-dir:{tmp_path / 'saved'}",
        pretrained=True,
        pretrained_cfg_overlay=new,
        num_classes=5,
    )
    anew = {
        key for key, t in trained.state_dict().items() if not torch.equal(made.state_dict()[key], t)
    }
    assert anew == {
        f"{head}.{kind}" for head in ("head", "head_dist") for kind in ("weight", "bias")
    }


def test_weights_of_the_base_alone_are_none_of_the_operated_network(folder, tmp_path):
    bare = timm.create_model("test_resnet", num_classes=7)
    torch.save(bare.state_dict(), tmp_path / "bare.pth")
    for overlay in ({}, {"num_classes": -1}):
        how = {"pretrained_cfg_overlay": {**overlay, "file": str(tmp_path / "bare.pth")}}
        with pytest.raises(ModelError, match=r"attn\.conv\.weight"):
            timm.create_model(f"local-dir:{folder}", pretrained=True, **how)
    how = {"pretrained_cfg_overlay": {"url": "https://example.org/net.pth"}}
    with pytest.raises(UsageError, match="url: the network of a folder"):
        timm.create_model(f"local-dir:{folder}", pretrained=True, **how)
    with pytest.raises(UsageError, match="no tagged weights"):
        timm.create_model("attnsurgeon.in1k", folder=folder)


@pytest.mark.slow
def test_a_folder_of_the_hub_by_timms_name_for_it(folder, hub, monkeypatch):  # noqa: F811
    name = "someone/net"
    from attnsurgeon.saved.hub import push

    push(folder, name)
    monkeypatch.setattr(
        timm.models._hub, "download_from_hf", lambda *a, **k: str(hub.home / name / "config.json")
    )
    made = timm.create_model(f"hf-hub:{name}", pretrained=True)
    networks.assert_same(made, attnsurgeon.load(folder))


def test_without_this_module_timm_does_not_build_the_base_alone(folder, monkeypatch):
    monkeypatch.delitem(_registry._model_entrypoints, "attnsurgeon")
    with pytest.raises(RuntimeError, match="Unknown model"):
        timm.create_model(f"local-dir:{folder}", pretrained=True)


def test_code_that_a_folder_names_is_not_run_by_timm_either(folder, tmp_path):
    copied = tmp_path / "copied"
    copied.mkdir()
    for file in folder.iterdir():
        (copied / file.name).write_bytes(file.read_bytes())
    record = json.loads((copied / "surgery.json").read_text())
    record["source"]["spec"] = f"{tmp_path}/trap.py:make"
    (copied / "surgery.json").write_text(json.dumps(record))
    (tmp_path / "trap.py").write_text("raise SystemExit('this was run')\n")
    config = json.loads((copied / "config.json").read_text())
    for said in ({"trust": True}, {"folder": str(copied), "trust": True}):
        (copied / "config.json").write_text(json.dumps({**config, "model_args": said}))
        with pytest.raises(UsageError, match="may not say folder or trust"):
            timm.create_model(f"local-dir:{copied}", pretrained=True)
    (copied / "config.json").write_text(json.dumps({**config, "model_args": {"drop_rate": 0.5}}))
    for pretrained in (True, False):
        with pytest.raises(ModelError, match="code of its own"):
            timm.create_model(f"local-dir:{copied}", pretrained=pretrained)


def test_networks_that_timm_does_not_register_have_no_config_for_it(tmp_path):
    made = networks.operated(f"{networks.write(tmp_path)}:make")
    assert "config.json" not in [file.name for file in made.save(tmp_path / "out").iterdir()]


SCRIPT = """
import sys
import timm
model = timm.create_model(sys.argv[1], pretrained=True, num_classes=7)
print(__name__, len(sys.argv), sum(p.numel() for p in model.parameters()))
"""


@pytest.mark.slow
def test_a_script_of_timms_is_run_through_the_module(folder, tmp_path):
    (tmp_path / "train.py").write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, "-m", "attnsurgeon.integrations.timm", tmp_path / "train.py",
         f"local-dir:{folder}"],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    numbers = sum(p.numel() for p in attnsurgeon.load(folder).parameters())
    assert done.stdout.split() == ["__main__", "2", str(numbers)]
