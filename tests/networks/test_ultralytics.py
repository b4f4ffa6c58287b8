"""YOLOs of ultralytics: sites, bit-equality, fuse(), predict, save, load and training."""

from __future__ import annotations

import copy
import json
import os
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
from attnsurgeon.errors import ModelError, RuleError, UsageError
from attnsurgeon.splicing.history import inserted
from attnsurgeon.splicing.removing import remove_all

pytestmark = [
    pytest.mark.slow,
    # Its callbacks ask Ray, where that is installed, for a trial that does not run.
    pytest.mark.filterwarnings("ignore:`get_trial_id` is meant:UserWarning"),
]
pytest.importorskip("ultralytics")

SIZE = (3, 128, 96)
# By hand from the YAMLs. A C3 or C2f of the backbone has n shortcuts; a C3k2 of yolo11n has one
# (its Bottleneck) or two (its C3k), in the neck as well; a PSABlock has two.
BRANCHES = {
    "yolov5n": 1 + 2 + 3 + 1,
    "yolov8n": 1 + 2 + 2 + 1,
    "yolo11n": (1 + 1 + 2 + 2) + 2 + (1 + 1 + 1 + 2),
    "yolov8n-seg": 1 + 2 + 2 + 1,
    "yolo11n-seg": (1 + 1 + 2 + 2) + 2 + (1 + 1 + 1 + 2),
}
# The last values at strides 4, 8, 16 and 32 before the neck.
STAGES = {
    "yolov5n": ["model.2.cv3.act", "model.4.cv3.act", "model.6.cv3.act", "model.9.cv2.act"],
    "yolov8n": ["model.2.cv2.act", "model.4.cv2.act", "model.6.cv2.act", "model.9.cv2.act"],
    "yolo11n": ["model.2.cv2.act", "model.4.cv2.act", "model.6.cv2.act", "model.10.cv2.act"],
}
each_network = pytest.mark.parametrize("name", BRANCHES)


def build(name: str, **arguments: Any) -> Any:
    torch.manual_seed(0)
    model = attnsurgeon.load_model(f"ultralytics:{name}", **arguments).eval()
    randomise_norms(model)
    return model


def insert(model: Any, where: Any = "residual-branch", attn: str = "eca") -> Any:
    return attnsurgeon.insert(model, attn, where, input_size=SIZE)


def tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    inside = value.values() if isinstance(value, dict) else value
    return [t for v in inside for t in tensors(v)] if isinstance(value, (list, tuple, dict)) else []


def outputs(model: Any, x: Tensor) -> list[Tensor]:
    with torch.no_grad():
        return tensors(model(x))


def image(batch: int = 2) -> Tensor:
    return torch.rand(batch, *SIZE, generator=torch.Generator().manual_seed(1))


def batch_of(x: Tensor) -> dict[str, Tensor]:
    boxes = torch.tensor([[0.5, 0.5, 0.5, 0.5], [0.3, 0.4, 0.4, 0.3], [0.6, 0.5, 0.6, 0.8]])
    masks = torch.zeros(len(x), x.shape[2] // 4, x.shape[3] // 4)
    masks[:, 4:20, 4:16] = 1
    return {
        "img": x,
        "cls": torch.tensor([[1.0], [0.0], [2.0]]),
        "bboxes": boxes,
        "batch_idx": torch.tensor([0.0, 1.0, 1.0]),
        "masks": masks,
    }


def loss(model: Any) -> tuple[Tensor, Any]:
    """The loss of one training batch and the network it was taken on, with its gradients."""
    from ultralytics.cfg import get_cfg

    model = copy.deepcopy(model).train()
    model.args = get_cfg(overrides={"imgsz": 128})
    total = model(batch_of(image()))[0].sum()
    total.backward()
    return total.detach(), model


def activated(model: Any) -> Any:
    """A copy in which the attention no longer is the identity."""
    model = copy.deepcopy(model)
    for _, module in inserted(model):
        for parameter in module.parameters():
            nn.init.uniform_(parameter, 0.3, 0.9, generator=torch.Generator().manual_seed(2))
    return model


@each_network
def test_sites_are_those_of_the_yaml(name):
    found = attnsurgeon.find_sites(build(name), input_size=SIZE)
    roles = {site.path: site.roles for site in found}
    branches = [path for path in roles if "residual-branch" in roles[path]]
    assert len(branches) == BRANCHES[name]
    assert len([p for p in roles if "residual-add" in roles[p]]) == BRANCHES[name]
    stages = STAGES[name.removesuffix("-seg")]
    assert [p for p in roles if "stage" in roles[p]] == stages
    assert [p for p in roles if "head" in roles[p]] == stages[-1:]
    # Two additions that only look alike: the encoding of positions and the arithmetic of boxes.
    false = [path.rpartition(":")[0].rpartition(".")[2] for path in found.survey.refused]
    assert len(false) == (2 if "11" in name else 1)
    assert not [path for path in branches if "cv2." in path and ".m." not in path]


@each_network
def test_it_stays_what_it_was_to_the_bit_and_learns(name):
    model, x = build(name), image()
    operation = insert(model)
    operated = operation.model
    assert operation.plan.refused == ()
    assert len(operation.plan) == BRANCHES[name]
    assert type(operated) is type(model)
    before, after = outputs(model, x), outputs(operated, x)
    assert len(before) == len(after) > 3
    assert all(map(torch.equal, after, before))
    new = tuple(f"{path}." for path, _ in inserted(operated))
    assert [k for k in operated.state_dict() if not k.startswith(new)] == list(model.state_dict())
    assert not all(map(torch.equal, outputs(activated(operated), x), before))

    (was, _), (now, trained) = loss(model), loss(operated)
    assert torch.equal(was, now)
    gradients = [p.grad for n, p in trained.named_parameters() if n.startswith(new)]
    assert len(gradients) == BRANCHES[name]
    assert all(g is not None and g.abs().sum() > 0 for g in gradients)


def test_every_promise_is_verified():
    verification = insert(build("yolov8n"), attn="se").verify()
    assert verification.ok, verification.problems
    assert verification.values_checked > 100
    assert len(verification.sizes) == 2


@pytest.mark.parametrize(
    ("where", "count"),
    [
        ("residual-block", 6),
        ("residual-add", 6),
        ("stage", 4),
        ("downsample", 3),
        ("stem", 1),
        ("head", 1),
        ({"site": "concat", "name": "model.[0-9]:cat"}, 5),  # in C2f and SPPF
        ({"site": "concat", "name": ["model.1[147]", "model.20"]}, 4),  # in the neck
        ({"site": "act", "name": "model.[0-9].act"}, 5),
    ],
    ids=str,
)
def test_values_between_and_inside_blocks_are_cut_and_the_network_is_called_as_ever(where, count):
    model, x = build("yolov8n"), image()
    operation = insert(model, where)
    assert len(operation.plan) == count
    assert all(cut.place.host != "" for cut in operation.plan)
    operated = operation.model
    assert all(map(torch.equal, outputs(operated, x), outputs(model, x)))
    assert torch.equal(loss(operated)[0], loss(model)[0])
    with torch.no_grad():
        assert all(map(torch.equal, operated(x, embed=[9]), model(x, embed=[9])))
        assert torch.equal(operated(x, augment=True)[0], model(x, augment=True)[0])
    assert attnsurgeon.audit(operated, input_size=SIZE).ok
    fused = activated(operated)
    fused.fuse(verbose=False)
    assert attnsurgeon.audit(fused, input_size=SIZE).ok


def calibrated(model: Any) -> Any:
    """The network with norms that fit its values, or random ones would drown what differs."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None
    with torch.no_grad():
        model.train()(image(4))
    return model.eval()


def fused_and_not(operated: Any) -> tuple[float, float]:
    """How far fuse() moves the boxes, and how far the attention does, which all survives."""
    x = image()
    expected, base = outputs(operated, x)[0], copy.deepcopy(operated)
    remove_all(base)
    fused = copy.deepcopy(operated)
    fused.fuse(verbose=False)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fused.modules())
    audit = attnsurgeon.audit(fused, input_size=SIZE)
    assert audit.ok
    assert len(audit.calls) == len(list(inserted(operated)))
    moved = (outputs(other, x)[0] - expected for other in (fused, base))
    return tuple(float(difference.abs().max()) for difference in moved)  # type: ignore[return-value]


@each_network
def test_fuse_keeps_active_attention(name):
    operation = insert(calibrated(build(name)))
    assert len(operation.plan) == BRANCHES[name]
    difference, effect = fused_and_not(activated(operation.model))
    assert difference < 0.01  # of a pixel, of boxes of up to 128
    assert effect > 10


def test_what_is_asked_for_inside_a_conv_goes_behind_it_where_fuse_lets_it_be():
    operation = insert(calibrated(build("yolov8n")), {"site": "conv", "name": "model.[0-9].conv"})
    notes = {cut.site.path: cut.place.note for cut in operation.plan}
    assert list(notes) == [f"model.{i}.conv" for i in (0, 1, 3, 5, 7)]
    assert all("which may fold what is inside (forward_fuse())" in n for n in notes.values())
    difference, effect = fused_and_not(activated(operation.model))
    assert difference < 0.01
    assert effect > 10


@pytest.mark.parametrize("attn", ["we", "sk"])
def test_a_convolution_that_will_be_folded_is_neither_replaced_nor_excited(attn):
    with pytest.raises(RuleError, match=r"model\.0 \(Conv\), which rebuilds itself \(forward_fuse"):
        insert(build("yolov8n"), {"site": "conv", "name": "model.[0-9].conv"}, attn)


def test_nothing_is_cut_inside_the_head_that_fuse_cuts_down():
    plan = attnsurgeon.plan(build("yolov8n"), "eca", {"site": "act"}, input_size=SIZE)
    refused = [r for r in plan.refused if "Detect" in r.reason]
    assert len(refused) == 12
    assert len(plan) == 45


def test_predict_save_and_load_of_ultralytics_keep_it(tmp_path):
    import numpy
    from ultralytics import YOLO

    operated = activated(insert(build("yolov8n", nc=3)).model)
    yolo = YOLO("yolov8n.yaml")
    yolo.model = operated
    picture = numpy.random.default_rng(0).integers(0, 255, (96, 128, 3), dtype=numpy.uint8)
    (found,) = yolo.predict(picture, imgsz=128, conf=0.0, verbose=False, device="cpu")
    assert found.boxes.data.shape[1] == 6
    assert attnsurgeon.audit(yolo.predictor.model.model, input_size=SIZE).ok  # fused by predict

    yolo = YOLO("yolov8n.yaml")
    yolo.model = operated
    yolo.save(tmp_path / "operated.pt")
    again = YOLO(tmp_path / "operated.pt").model
    audit = attnsurgeon.audit(again, input_size=SIZE)
    assert audit.ok
    assert len(audit.calls) == BRANCHES["yolov8n"]
    halved = copy.deepcopy(operated).half().float()  # how ultralytics saves
    assert all(map(torch.equal, outputs(again, image()), outputs(halved, image())))


def test_our_own_folder_keeps_it_without_a_pickle(tmp_path):
    model = build("yolo11n", num_classes=3)
    operation = insert(model)
    trained = activated(operation.model)
    operation.model.load_state_dict(trained.state_dict())
    operation.save(tmp_path / "net")
    loaded: Any = attnsurgeon.load(tmp_path / "net").eval()
    assert all(map(torch.equal, outputs(loaded, image()), outputs(trained, image())))
    assert loaded.task == "detect"
    assert loaded.args["imgsz"] == 640


def test_a_checkpoint_of_ultralytics_is_read_without_running_it(tmp_path):
    from ultralytics import YOLO

    yolo = YOLO("yolov8n.yaml")
    yolo.model = build("yolov8n", nc=3)
    yolo.model.names = {0: "cat", 1: "dog", 2: "cow"}
    yolo.save(tmp_path / "best.pt")
    model: Any = attnsurgeon.load_model(
        "ultralytics:yolov8n", checkpoint=tmp_path / "best.pt", nc=3
    )
    expected = yolo.model.half().float().state_dict()
    assert all(torch.equal(v, expected[k]) for k, v in model.state_dict().items())
    assert model.names == {0: "cat", 1: "dog", 2: "cow"}


def test_a_checkpoint_that_builds_a_yolo_to_run_code_runs_nothing(tmp_path):
    """The constructor evaluates the activation of its configuration; the trap is live."""
    from ultralytics.nn.tasks import DetectionModel

    marker = tmp_path / "ran"
    config = copy.deepcopy(build("yolov8n").yaml)
    config["activation"] = f"open({str(marker)!r}, 'w').close() or nn.SiLU()"

    class Trap:
        def __reduce__(self):
            return DetectionModel, (config, 3, 3, False)

    torch.save({"model": build("yolov8n"), "extra": Trap()}, tmp_path / "w.pt")
    attnsurgeon.load_model("ultralytics:yolov8n", checkpoint=tmp_path / "w.pt")
    assert not marker.exists()
    torch.load(tmp_path / "w.pt", weights_only=False)
    assert marker.exists()


def test_a_function_that_a_checkpoint_hides_is_not_called(tmp_path, monkeypatch):
    from ultralytics.nn import tasks

    called = []

    class Trap:
        def __reduce__(self):
            return tasks.yaml_model_load, ("trap.yaml",)

    model, real = build("yolov8n"), tasks.yaml_model_load
    torch.save({"model": model, "extra": Trap()}, tmp_path / "w.pt")
    monkeypatch.setattr(tasks, "yaml_model_load", lambda path: called.append(path) or real(path))
    loaded = attnsurgeon.load_model("ultralytics:yolov8n", checkpoint=tmp_path / "w.pt")
    assert called
    assert "trap.yaml" not in called
    state = loaded.state_dict()
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())


# Training.


@pytest.fixture
def dataset(tmp_path, monkeypatch):
    """Four images of noise with one box each, and the way to train on them for one epoch."""
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
            polygon = "0 0.2 0.2 0.7 0.2 0.7 0.7 0.2 0.7\n"
            (tmp_path / "labels" / split / f"{i}.txt").write_text(polygon)
    file = tmp_path / "data.yaml"
    file.write_text(
        f"path: {tmp_path}\ntrain: images/train\nval: images/val\nnames: {{0: thing, 1: other}}\n"
    )
    return {
        "data": str(file), "epochs": 1, "imgsz": 64, "batch": 4, "workers": 0, "device": "cpu",
        "plots": False, "amp": False, "verbose": False, "project": str(tmp_path / "runs"),
        "optimizer": "SGD", "lr0": 1e-3, "warmup_epochs": 0,
    }  # fmt: skip


def operated_yolo(name: str) -> Any:
    from ultralytics import YOLO

    yolo = YOLO(f"{name}.yaml")
    yolo.model = activated(attnsurgeon.insert(yolo.model, "eca", input_size=(3, 64, 64)).model)
    return yolo


@pytest.mark.parametrize("name", ["yolov8n", "yolov8n-seg"])
def test_the_trainer_trains_the_operated_network(name, dataset):
    from ultralytics import YOLO

    from attnsurgeon.integrations.ultralytics import trainer

    yolo = operated_yolo(name)
    start = {path: module.state_dict() for path, module in inserted(yolo.model)}
    backbone = {k: v.clone() for k, v in yolo.model.state_dict().items() if "model.2." in k}
    yolo.train(trainer=trainer(yolo.model), **dataset)
    for model in (yolo.model, *(YOLO(yolo.trainer.wdir / f).model for f in ("best.pt", "last.pt"))):
        audit = attnsurgeon.audit(model, input_size=(3, 64, 64))
        assert audit.ok
        assert list(audit.calls) == list(start)
        assert model.names == {0: "thing", 1: "other"}
        for path, module in inserted(model):
            for key, value in module.state_dict().items():  # trained from where it stood
                torch.testing.assert_close(value, start[path][key], rtol=0, atol=0.05)
        state = model.state_dict()
        weights = [key for key in backbone if key.endswith("conv.weight")]
        for key in weights:
            torch.testing.assert_close(state[key], backbone[key], rtol=0, atol=0.05)
        assert not all(torch.equal(state[key], backbone[key]) for key in weights)


@pytest.mark.parametrize(
    "between",
    [lambda y: y, copy.deepcopy, lambda y: pickle.loads(pickle.dumps(y))],
    ids=["itself", "deepcopy", "pickle"],
)
def test_one_made_of_a_description_says_that_it_trains_another_network(between, dataset):
    yolo = between(operated_yolo("yolov8n"))
    with pytest.raises(ModelError, match=r"(?s)built anew.*all attention would be lost"):
        yolo.train(**dataset)
    assert list(inserted(yolo.model)) != []
    attnsurgeon.remove(yolo.model)
    yolo.train(**dataset)  # then there is nothing to lose


def test_a_network_without_attention_or_of_another_library_has_no_trainer():
    from ultralytics.nn.tasks import DetectionModel

    from attnsurgeon.integrations.ultralytics import trainer

    with pytest.raises(UsageError, match="no attention to train"):
        trainer(DetectionModel("yolov8n.yaml", verbose=False))
    other = attnsurgeon.insert(attnsurgeon.load_model("test_resnet"), "eca").model
    with pytest.raises(UsageError, match="this ResNet is no YOLO"):
        trainer(other)


def test_on_the_command_line_only_our_own_words_go_to_stdout(tmp_path):
    arguments = ["ultralytics:yolov8n", "--attn", "eca", "--where", "residual-branch", "--json"]
    command = [sys.executable, "-m", "attnsurgeon", "plan", *arguments, "--input-size", "3,64,64"]
    environment = {**os.environ, "YOLO_CONFIG_DIR": str(tmp_path), "YOLO_OFFLINE": "true"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert len(json.loads(done.stdout)["sites"]) == BRANCHES["yolov8n"]
    assert "Ultralytics Settings" in done.stderr  # it does talk
    assert Path(tmp_path / "Ultralytics" / "settings.json").is_file()
