"""Specs of ultralytics: which network a name stands for, and what is said where there is none."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from attnsurgeon import load_model
from attnsurgeon.errors import ModelError
from attnsurgeon.models import build_on_meta, identify, input_size_of, source_of


def test_a_missing_package_is_one_message_with_the_way_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "ultralytics", None)
    monkeypatch.delitem(sys.modules, "ultralytics.nn", raising=False)
    monkeypatch.delitem(sys.modules, "ultralytics.nn.tasks", raising=False)
    with pytest.raises(ModelError, match="ultralytics, which is not installed") as caught:
        load_model("ultralytics:yolov8n")
    assert caught.value.hint == 'pip install "attnsurgeon[ultralytics]"'
    assert caught.value.exit_code == 3


@pytest.fixture
def ultralytics():
    return pytest.importorskip("ultralytics")


# Parameters as ultralytics publishes them for 80 classes.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "kind", "millions"),
    [
        ("yolov5nu", "DetectionModel", 2.7),
        ("yolov5n", "DetectionModel", 2.7),
        ("yolov8n", "DetectionModel", 3.2),
        ("yolov8n.yaml", "DetectionModel", 3.2),
        ("yolov8s", "DetectionModel", 11.2),
        ("yolo11n", "DetectionModel", 2.6),
        ("yolov8n-seg", "SegmentationModel", 3.4),
        ("yolo11n-seg", "SegmentationModel", 2.9),
    ],
)
def test_names_stand_for_networks(name, kind, millions, ultralytics, capsys):
    model: Any = load_model(f"ultralytics:{name}")
    assert type(model).__name__ == kind
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 1) == millions
    assert model.stride.tolist() == [8, 16, 32]
    assert len(model.names) == 80
    assert model.task == ("segment" if name.endswith("seg") else "detect")
    assert model.args["task"] == model.task
    assert input_size_of(model) == (3, 640, 640)
    assert capsys.readouterr().out == ""


@pytest.mark.slow
def test_arguments_have_the_names_they_have_elsewhere(ultralytics, capsys):
    model: Any = load_model("ultralytics:yolov8n", num_classes=3, in_chans=1)
    assert len(model.names) == 3
    assert input_size_of(model) == (1, 640, 640)
    assert capsys.readouterr().out == ""  # ultralytics says that it overrides the classes
    same: Any = load_model("ultralytics:yolov8n", nc=3, ch=1)
    assert [v.shape for v in model.state_dict().values()] == [
        v.shape for v in same.state_dict().values()
    ]
    assert identify(model) == source_of(model)
    meta: Any = build_on_meta("ultralytics:yolov8n", num_classes=3)
    assert {t.device.type for t in meta.state_dict().values()} == {"meta"}
    assert meta.stride.tolist() == [8, 16, 32]


@pytest.mark.slow
def test_a_file_of_yours_is_built_at_the_scale_in_its_name(ultralytics, tmp_path):
    shipped = Path(ultralytics.__file__).parent / "cfg" / "models" / "v8" / "yolov8.yaml"
    file = tmp_path / "yolov8-mine.yaml"
    file.write_text(shipped.read_text().replace("nc: 80", "nc: 5"))
    small: Any = load_model(f"ultralytics:{tmp_path / 'yolov8n-mine.yaml'}")
    assert len(small.names) == 5
    assert sum(p.numel() for p in small.parameters()) < 4e6
    assert len(load_model(f"ultralytics:{file}").names) == 5  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "message", "hint"),
    [
        ("yolov88n", "has no network called 'yolov88n'", "did you mean"),
        ("yolov8n.pt", "is a checkpoint", r"load_model\('ultralytics:yolov8n', checkpoint="),
        ("yolov8s-world", "is no network for detect", "path/file.py:factory"),
        ("rtdetr-l", "is no network for detect", "path/file.py:factory"),
        ("nowhere/mine.yaml", "there is no file", "there is no folder nowhere"),
        ("https://example.org/mine.yaml", "there is no file", ""),
        ("", "is empty", "ultralytics:yolov8n"),
    ],
)
def test_what_is_no_network_is_answered_with_what_is(name, message, hint, ultralytics):
    with pytest.raises(ModelError, match=message) as caught:
        load_model(f"ultralytics:{name}")
    assert re.search(hint, caught.value.hint or "")


@pytest.mark.slow
def test_a_file_that_describes_no_network_is_one_message(ultralytics, tmp_path):
    for text in ("nc: 80\n", "- 1\n", "a: [1\n", "backbone: []\nhead: []\n"):
        (tmp_path / "mine.yaml").write_text(text)
        with pytest.raises(ModelError, match=r"cannot be read|is no network for detect"):
            load_model(f"ultralytics:{tmp_path / 'mine.yaml'}")


@pytest.mark.slow
def test_a_wrong_argument_is_named(ultralytics):
    with pytest.raises(ModelError, match="takes no argument 'classes'"):
        load_model("ultralytics:yolov8n", classes=3)


@pytest.mark.slow
def test_pretrained_reads_what_ultralytics_fetches_and_says_what_to_do_without_a_network(
    ultralytics, tmp_path, monkeypatch
):
    from ultralytics import YOLO
    from ultralytics.utils import downloads

    asked: list[str] = []

    def none(file: str) -> str:
        asked.append(file)
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(downloads, "attempt_download_asset", none)
    with pytest.raises(ModelError, match="could not fetch the pretrained weights") as caught:
        load_model("ultralytics:yolov5n", pretrained=True)
    assert asked == ["yolov5nu.pt"]
    assert caught.value.what.endswith("ConnectionError: no route")
    assert "checkpoint=" in (caught.value.hint or "")
    with pytest.raises(ModelError, match=r"no pretrained weights yolov6n\.pt"):
        load_model("ultralytics:yolov6n", pretrained=True)

    yolo: Any = YOLO("yolov8n.yaml")
    yolo.model.names[0] = "person"
    yolo.save(tmp_path / "yolov8n.pt")
    monkeypatch.setattr(downloads, "attempt_download_asset", lambda file: str(tmp_path / file))
    model: Any = load_model("ultralytics:yolov8n", pretrained=True)
    expected = yolo.model.half().float().state_dict()
    assert all(torch.equal(v, expected[k]) for k, v in model.state_dict().items())
    assert model.names[0] == "person"
    noted = source_of(model)
    assert noted is not None
    assert noted.weights == "pretrained"


@pytest.mark.slow
def test_a_checkpoint_of_other_classes_says_how_to_build_its_network(ultralytics, tmp_path):
    from ultralytics import YOLO

    yolo: Any = YOLO("yolov8n.yaml")
    yolo.model = load_model("ultralytics:yolov8n", nc=3)
    yolo.save(tmp_path / "best.pt")
    with pytest.raises(ModelError, match=r"load_model\(\.\.\., num_classes=3\)"):
        load_model("ultralytics:yolov8n", checkpoint=tmp_path / "best.pt")


@pytest.mark.slow
def test_a_network_that_you_built_and_used_is_recognised(ultralytics):
    from ultralytics import YOLO
    from ultralytics.nn.tasks import DetectionModel

    yolo: Any = YOLO("yolo11n.yaml").model.eval()
    yolo(torch.rand(1, 3, 64, 64))
    found = identify(yolo)
    assert found is not None
    assert (found.spec, found.model_args) == ("ultralytics:yolo11n", {"nc": 80, "ch": 3})
    other: Any = DetectionModel("yolov8n.yaml", nc=3, verbose=False)
    found = identify(other)
    assert found is not None
    assert (found.spec, found.model_args) == ("ultralytics:yolov8n", {"nc": 3, "ch": 3})
    other.model[2].m[0].cv1.conv.padding = (2, 2)
    assert identify(other) is None
