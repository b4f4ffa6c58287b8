"""Hostile folders and rule files: nothing that they name is run, opened or asked."""

from __future__ import annotations

import copy
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import attnsurgeon
from tests.hostile import cases
from tests.saved import networks

pytestmark = pytest.mark.slow
pytest.importorskip("transformers")
pytest.importorskip("ultralytics")
pytest.importorskip("segmentation_models_pytorch")

ROOT = Path(__file__).parents[2]
MOST_SECONDS, MOST_BYTES = 5.0, 10**9
Answers = dict[str, dict[str, Any]]


def _good_networks() -> dict[str, Any]:
    """One of each part of the vocabulary, as a user has it, small."""
    import segmentation_models_pytorch as smp  # pyright: ignore[reportMissingImports]
    import transformers as hf  # pyright: ignore[reportMissingImports]

    from tests.nets.hugging_face import FAMILIES

    sizes = {"depths": [1, 1], "hidden_sizes": [16, 32], "embedding_size": 8}
    return {
        "timm": attnsurgeon.load_model("test_resnet", num_classes=7),
        "timm-more": attnsurgeon.load_model(
            "timm:test_vit", img_size=96, drop_path_rate=0.1, act_layer="silu", num_classes=5
        ),
        "torchvision": attnsurgeon.load_model("torchvision:mobilenet_v3_small", num_classes=5),
        "transformers": hf.ResNetForImageClassification(hf.ResNetConfig(**sizes, num_labels=5)),
        "transformers-labels": hf.ConvNextForImageClassification(
            hf.ConvNextConfig(
                depths=[1, 1, 1, 1], hidden_sizes=[8, 8, 16, 16], id2label={0: "a cat", 1: "b/c.d"}
            )
        ),
        "transformers-backbone": FAMILIES["detr"].build(),
        "transformers-timm": FAMILIES["detr-timm"].build(),
        "smp": attnsurgeon.load_model(
            "segmentation_models_pytorch:Unet",
            encoder_name="resnet18",
            decoder_channels=[32, 16, 16, 16, 16],
        ),
        "smp-own": smp.FPN("tu-test_resnet", encoder_weights=None, encoder_depth=4, classes=2),
        "ultralytics": attnsurgeon.load_model("ultralytics:yolov8n", num_classes=3),
    }


_SIZES = {"transformers-backbone": (3, 64, 64), "transformers-timm": (3, 64, 64)}
_SIZES |= {"smp": (3, 64, 64), "smp-own": (3, 64, 64), "ultralytics": (3, 64, 64)}
GOOD = (
    *("timm", "timm-more", "torchvision", "transformers", "transformers-labels"),
    *("transformers-backbone", "transformers-timm", "smp", "smp-own", "ultralytics"),
)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A directory with traps, and beside it one with a good folder of every kind."""
    root = tmp_path_factory.mktemp("hostile")
    (root / "traps").mkdir()
    cases.write_traps(root / "traps")
    for name, network in _good_networks().items():
        torch.manual_seed(0)
        size = _SIZES.get(name)
        operation = attnsurgeon.insert(network, "eca", "residual-branch", input_size=size)
        operation.save(root / "good" / name)
    own = attnsurgeon.load_model(f"{networks.write(root)}:make")
    made = attnsurgeon.insert(own, "se", "residual-branch", input_size=(3, 20, 28))
    made.save(root / "good" / "own")
    return root


def _filled(value: Any, place: Path, folder: Path) -> Any:
    if isinstance(value, str):
        return value.replace("{traps}", str(place / "traps")).replace("{folder}", str(folder))
    if isinstance(value, dict):
        return {key: _filled(part, place, folder) for key, part in value.items()}
    return [_filled(v, place, folder) for v in value] if isinstance(value, list) else value


def _copied(place: Path, number: int) -> tuple[Path, Any]:
    folder = place / "bad" / f"folder-{number}"
    shutil.copytree(place / "good" / "timm", folder)
    (folder / "canarybird.py").write_text(cases.TRAP.format(name="beside"))
    shutil.copy(place / "traps" / "canarybird.pt", folder / "e.pt")
    return folder, json.loads((folder / "surgery.json").read_text())


def _label(spec: str, given: dict[str, Any]) -> str:
    shown = ", ".join(f"{k[:20]}={str(v)[:30]}" for k, v in list(given.items())[:2])
    return f"{spec[:60]!r}({shown})"


SPECS = [*cases.CODE, *cases.ADDRESSES, *cases.ARGUMENTS]


def _hostile_folders(place: Path) -> list[dict[str, Any]]:
    tasks = []
    edits: dict[str, Any] = dict(cases.RECORDS)
    for spec, given in SPECS:
        edits[_label(spec, given)] = _source(spec, given, place)
    for number, (name, edit) in enumerate(edits.items()):
        folder, record = _copied(place, number)
        edit(record, folder, place / "traps")
        (folder / "surgery.json").write_text(json.dumps(record))
        tasks.append({"name": name, "kind": "load", "path": str(folder)})
    for number, (name, spoil) in enumerate(cases.FILES.items(), len(tasks)):
        folder, _ = _copied(place, number)
        spoil(folder, place / "traps")
        tasks.append({"name": name, "kind": "load", "path": str(folder)})
    return tasks


def _source(spec: str, given: dict[str, Any], place: Path) -> Any:
    def edit(record: Any, folder: Path, traps: Path) -> None:
        record["source"]["spec"] = _filled(spec, place, folder)
        record["source"]["model_args"] = _filled(copy.deepcopy(given), place, folder)

    return edit


def _hostile_rules(place: Path) -> list[dict[str, Any]]:
    """Every spec and its arguments once more, as the test of a rule file."""
    home = place / "rules"
    home.mkdir()
    texts = dict(cases.TEXTS)
    for spec, given in SPECS:
        test = {"model": spec, "args": given, "expect": {"r": {"count": 1}}}
        filled = json.dumps(_filled(test, place, home))
        if given not in cases.LARGE_BUT_ONLY_SHAPES and len(filled) < 100_000:
            texts[_label(spec, given)] = f"{cases.GOOD_RULE}tests: [{filled}]\n"
    tasks = []
    for number, (name, text) in enumerate(texts.items()):
        file = home / f"rule-{number}.yaml"
        file.write_text(text)
        argv = ["rules", "test", "{path}"]
        tasks.append({"name": name, "kind": "command", "path": str(file), "how": {"argv": argv}})
    return tasks


def _watched(place: Path, tasks: list[dict[str, Any]], name: str) -> Answers:
    first = [
        *({"name": n, "kind": "load", "path": str(place / "good" / n)} for n in GOOD),
        {
            "name": "rules",
            "kind": "command",
            "path": "",
            "how": {"argv": ["rules", "test", str(ROOT / "rules" / "stage-act.yaml")]},
        },
    ]
    (place / f"{name}.json").write_text(json.dumps({"first": first, "tasks": tasks}))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "0"}
    environment["YOLO_CONFIG_DIR"] = str(place)
    done = subprocess.run(
        [sys.executable, "-m", "tests.hostile.watch", f"../{name}.json", f"../{name}.answers"],
        cwd=place / "traps",
        env=environment,
        capture_output=True,
        text=True,
        timeout=1500,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads((place / f"{name}.answers").read_text())
    return {f"{i} {answer['name']}": answer for i, answer in enumerate(found)}


def _wrong(answers: Answers, outcome: str) -> dict[str, Any]:
    return {
        name: answer
        for name, answer in answers.items()
        if answer["outcome"] != outcome
        or answer["seen"]
        or answer["ran"]
        or answer["seconds"] > MOST_SECONDS
        or answer["grown"] > MOST_BYTES
    }


def test_hostile_folders_are_refused_and_nothing_of_them_is_run(place):
    answers = _watched(place, _hostile_folders(place), "folders")

    assert len(answers) >= 60
    assert _wrong(answers, "refused") == {}
    for answer in answers.values():
        assert len(answer["said"]) < 5_000


def test_hostile_rule_files_are_refused_and_nothing_of_them_is_run(place):
    answers = _watched(place, _hostile_rules(place), "rules")

    assert len(answers) >= 60
    assert _wrong(answers, "refused") == {}


def test_good_folders_of_every_kind_are_loaded_and_nothing_else_is_touched(place):
    tasks = [{"name": n, "kind": "load", "path": str(place / "good" / n)} for n in GOOD]
    answers = _watched(place, tasks, "good")

    assert {name: a for name, a in answers.items() if a["outcome"] != "loaded" or a["seen"]} == {}


def test_what_is_allowed_is_run_and_this_watch_sees_it(place):
    folder, record = _copied(place, 10_000)
    record["source"] |= {"spec": "canarybird:make", "model_args": {}}
    (folder / "surgery.json").write_text(json.dumps(record))
    tasks = [
        {
            "name": "own",
            "kind": "load",
            "path": str(place / "good" / "own"),
            "how": {"trust": True},
        },
        {"name": "trap", "kind": "load", "path": str(folder), "how": {"trust": True}},
        {
            "name": "rule",
            "kind": "command",
            "path": str(place / "trusted.yaml"),
            "how": {"argv": ["rules", "test", "{path}", "--trust-code"]},
        },
    ]
    (place / "trusted.yaml").write_text(
        f"{cases.GOOD_RULE}tests: [{{model: 'hostile_inside:make', expect: {{r: {{count: 1}}}}}}]\n"
    )
    own, trap, rule = _watched(place, tasks, "trusted").values()

    assert own["outcome"] == "loaded"
    assert any("own_net.py" in seen for seen in own["seen"])
    assert (trap["outcome"], rule["outcome"]) == ("refused", "refused")  # they make no network
    assert "canarybird.ran" in trap["ran"]
    assert any("canarybird.py" in seen for seen in trap["seen"])
    assert "package.ran" in rule["ran"]
