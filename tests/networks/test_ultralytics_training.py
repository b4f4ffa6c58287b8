"""ultralytics' trainings keep the attention, or say that they would not."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import attnsurgeon
from attnsurgeon.checks.verify import randomise_norms
from attnsurgeon.errors import ModelError, UsageError
from attnsurgeon.splicing.history import inserted

pytestmark = [
    pytest.mark.slow,
    # Its callbacks ask Ray, where that is installed, for a trial that does not run.
    pytest.mark.filterwarnings("ignore:`get_trial_id` is meant:UserWarning"),
]
pytest.importorskip("ultralytics")

SIZE = (3, 64, 64)
# One C2f with a shortcut in the backbone, and a head at strides 4 and 8.
TINY = """
nc: 2
scales: {n: [1.0, 1.0, 64]}
backbone:
  - [-1, 1, Conv, [8, 3, 2]]
  - [-1, 1, Conv, [16, 3, 2]]
  - [-1, 2, C2f, [16, True]]
  - [-1, 1, Conv, [32, 3, 2]]
head:
  - [[2, 3], 1, Detect, [nc]]
"""


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """A folder with the description of a small YOLO and a dataset of four images."""
    import numpy
    import ultralytics.data.utils
    from PIL import Image

    monkeypatch.setattr(ultralytics.data.utils, "check_font", lambda *_: None)  # a download
    dice = numpy.random.default_rng(0)
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (tmp_path / kind / split).mkdir(parents=True)
        for i in range(4):
            pixels = dice.integers(0, 255, (64, 64, 3), dtype=numpy.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / split / f"{i}.png")
            (tmp_path / "labels" / split / f"{i}.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    (tmp_path / "data.yaml").write_text(
        f"path: {tmp_path}\ntrain: images/train\nval: images/val\nnames: {{0: thing, 1: other}}\n"
    )
    (tmp_path / "tiny.yaml").write_text(TINY)
    return tmp_path


def how(home: Path, **more: Any) -> dict[str, Any]:
    return {
        "data": str(home / "data.yaml"), "epochs": 1, "imgsz": 64, "batch": 4, "workers": 0,
        "device": "cpu", "plots": False, "amp": False, "verbose": False, "optimizer": "SGD",
        "project": str(home / "runs"), "lr0": 1e-9, "warmup_epochs": 0, "warmup_bias_lr": 0.0,
        "mosaic": 0.0, **more,
    }  # fmt: skip


def active(model: Any) -> Any:
    """The network with attention that is not the identity."""
    for _, part in inserted(model):
        for parameter in part.parameters():
            nn.init.uniform_(parameter, 0.3, 0.9, generator=torch.Generator().manual_seed(2))
    return model


def gates(model: Any) -> list[str]:
    return [path for path, _ in inserted(model)]


def boxes(model: Any) -> Tensor:
    x = torch.rand(1, *SIZE, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return copy.deepcopy(model).float().eval()(x)[0]


@pytest.fixture
def saved(home) -> Path:
    """An operated YOLO, as ultralytics saves it."""
    from ultralytics import YOLO

    yolo: Any = YOLO(home / "tiny.yaml")
    yolo.model = active(attnsurgeon.insert(yolo.model, "eca", input_size=SIZE).model)
    assert gates(yolo.model) == ["model.2.m.0.attn", "model.2.m.1.attn"]
    yolo.save(home / "operated.pt")
    return home / "operated.pt"


def test_ultralytics_own_yolo_says_that_it_would_lose_the_attention(saved, home):
    from ultralytics import YOLO

    for further in ({}, {"pretrained": False}):
        with pytest.raises(ModelError, match="all attention would be lost") as caught:
            YOLO(saved).train(**how(home, **further))
        assert "attnsurgeon.integrations.ultralytics" in str(caught.value)
    with pytest.raises(ModelError, match="all attention would be lost"):
        YOLO(home / "tiny.yaml").train(**how(home, model=str(saved)))


def test_a_network_without_attention_is_trained_by_both_as_ever(home):
    import ultralytics

    from attnsurgeon.integrations.ultralytics import YOLO

    trained = []
    for kind in (ultralytics.YOLO, YOLO):
        torch.manual_seed(0)
        yolo: Any = kind(home / "tiny.yaml")
        yolo.train(**how(home, lr0=0.01))
        trained.append(yolo.model.state_dict())
    assert list(trained[0]) == list(trained[1])
    assert all(torch.equal(value, trained[1][key]) for key, value in trained[0].items())


def test_removed_attention_leaves_a_description_that_is_built_from(saved):
    from ultralytics import YOLO
    from ultralytics.nn.tasks import DetectionModel

    model = YOLO(saved).model
    with pytest.raises(ModelError, match="was operated"):
        DetectionModel(model.yaml, verbose=False)
    for made in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        with pytest.raises(ModelError, match="was operated"):
            DetectionModel(made.yaml.copy(), verbose=False)
    assert type(dict(model.yaml)) is dict
    attnsurgeon.remove(model)
    assert type(model.yaml) is dict
    assert list(DetectionModel(model.yaml, verbose=False).state_dict()) == list(model.state_dict())


def test_every_training_keeps_it_the_first_the_second_and_a_resumed_one(saved, home):
    from attnsurgeon.integrations.ultralytics import YOLO

    start = YOLO(saved).model
    yolo: Any = YOLO(saved)
    yolo.train(**how(home))
    assert gates(yolo.model) == gates(start)
    # With next to no learning rate only the statistics of the norms and the rounding to half.
    for (_, old), (_, new) in zip(inserted(start), inserted(yolo.model), strict=True):
        torch.testing.assert_close(new.state_dict(), old.state_dict(), rtol=0, atol=1e-3)

    yolo.train(**how(home))  # again, on the same object
    assert gates(yolo.model) == gates(start)
    again: Any = YOLO(yolo.trainer.last)
    assert gates(again.model) == gates(start)

    class Stopped(Exception):
        pass

    def stop(run: Any) -> None:
        if run.epoch == 0:
            raise Stopped

    again.add_callback("on_model_save", stop)
    with pytest.raises(Stopped):
        again.train(**how(home, epochs=2, lr0=0.01))
    resumed: Any = YOLO(again.trainer.last)
    with_it = copy.deepcopy(resumed.model)
    resumed.train(resume=True)
    assert resumed.trainer.start_epoch == 1
    assert gates(resumed.model) == gates(start)
    assert resumed.trainer.optimizer.state_dict()["state"]
    assert not torch.equal(boxes(resumed.model), boxes(with_it))  # it went on


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")  # that is how it exports
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_a_yolo_made_of_a_description_trains_the_network_that_was_put_into_it(home):
    from attnsurgeon.integrations.ultralytics import YOLO

    yolo: Any = YOLO(home / "tiny.yaml")
    randomise_norms(yolo.model)
    yolo.model = active(attnsurgeon.insert(yolo.model, "se", input_size=SIZE).model)
    start = copy.deepcopy(yolo.model)
    yolo.train(**how(home, val=False))
    assert gates(yolo.model) == gates(start) != []
    for (_, old), (_, new) in zip(inserted(start), inserted(yolo.model), strict=True):
        torch.testing.assert_close(new.state_dict(), old.state_dict(), rtol=0, atol=1e-3)
    metrics = yolo.val(data=str(home / "data.yaml"), imgsz=64, device="cpu", workers=0, plots=False)
    assert metrics is not None
    file = yolo.export(format="torchscript", imgsz=64, device="cpu")
    x = torch.rand(1, *SIZE, generator=torch.Generator().manual_seed(1))
    made = torch.jit.load(file)(x)
    bare = copy.deepcopy(yolo.model)
    attnsurgeon.remove(bare)
    expected = boxes(yolo.model)
    effect, error = ((other - expected).abs().max() for other in (boxes(bare), made))
    assert 0 <= float(error) < 0.01 * float(effect)


def test_weights_of_an_operated_network_are_refused_by_one_without_its_attention(saved, home):
    from attnsurgeon.integrations.ultralytics import YOLO

    with pytest.raises(UsageError, match=r"(?s)the network that is trained has none.*operated\.pt"):
        YOLO(home / "tiny.yaml").train(**how(home, pretrained=str(saved)))
    other: Any = YOLO(home / "tiny.yaml")
    other.model = attnsurgeon.insert(other.model, "se", input_size=SIZE).model
    with pytest.raises(UsageError, match=r"model\.2\.m\.0\.attn have no place"):
        other.train(**how(home, pretrained=str(saved)))


@pytest.mark.nightly  # a process of its own
def test_several_datasets_and_tuning_keep_it(saved, home, monkeypatch):
    from attnsurgeon.integrations.ultralytics import YOLO

    monkeypatch.setenv("PYTHONPATH", str(Path(attnsurgeon.__file__).parents[1]))
    yolo: Any = YOLO(saved)
    results = yolo.train(**how(home, data=[str(home / "data.yaml")]))
    assert all(results.values())
    for run in yolo.trainer.trainers:
        assert len(gates(YOLO(run.last).model)) == 2

    yolo = YOLO(saved)
    arguments = how(home, val=True)
    for name in ("data", "lr0"):
        del arguments[name]
    yolo.tune(data=str(home / "data.yaml"), iterations=1, space={"lr0": (1e-9, 1e-8)}, **arguments)
    (last,) = home.glob("runs/tune*/weights/last.pt")
    assert len(gates(YOLO(last).model)) == 2


@pytest.mark.nightly  # a process of its own
def test_what_several_devices_would_run_keeps_it(saved, home):
    """The script that ultralytics writes for each process, run as the only one."""
    from ultralytics.utils.dist import ddp_cleanup, generate_ddp_file

    from attnsurgeon.integrations.ultralytics import YOLO, _operating

    yolo: Any = YOLO(saved)
    kind = _operating(yolo._smart_load("trainer"), yolo.model)
    run = kind(overrides=how(home, model=str(saved), task="detect"))
    file = generate_ddp_file(run)
    try:
        subprocess.run([sys.executable, file], check=True, capture_output=True)
    finally:
        ddp_cleanup(run, file)
    assert len(gates(YOLO(run.last).model)) == 2


@pytest.mark.nightly  # a process of its own
@pytest.mark.parametrize("network", ["operated", "bare", "removed"])
def test_several_devices_are_told_what_a_yolo_made_of_a_description_was_given(home, network):
    """ultralytics' own `YOLO` reads nothing of the network, and its processes build another."""
    from ultralytics import YOLO
    from ultralytics.utils.dist import ddp_cleanup, generate_ddp_file

    yolo: Any = YOLO(home / "tiny.yaml")
    if network != "bare":
        yolo.model = attnsurgeon.insert(yolo.model, "eca", input_size=SIZE).model
    if network == "removed":
        attnsurgeon.remove(yolo.model)
    arguments = how(home, model=str(home / "tiny.yaml"), task="detect", val=False)
    run = yolo._smart_load("trainer")(overrides=arguments, _callbacks=yolo.callbacks)
    yolo.trainer = run  # as `train` leaves it
    file = generate_ddp_file(run)
    try:
        done = subprocess.run([sys.executable, file], check=False, capture_output=True, text=True)
    finally:
        ddp_cleanup(run, file)
    if network == "operated":
        assert done.returncode == 1
        assert "all attention would be lost" in done.stderr
        assert not run.last.exists()
    else:
        assert done.returncode == 0, done.stderr
        assert gates(YOLO(run.last).model) == []


def test_a_copy_of_a_yolo_answers_for_itself(home):
    from ultralytics import YOLO

    yolo: Any = YOLO(home / "tiny.yaml")
    yolo.model = attnsurgeon.insert(yolo.model, "eca", input_size=SIZE).model
    twin = copy.deepcopy(yolo)
    attnsurgeon.remove(twin.model)
    twin.train(**how(home, val=False))
    assert gates(twin.model) == []
    with pytest.raises(ModelError, match="all attention would be lost"):
        yolo.train(**how(home, val=False))
