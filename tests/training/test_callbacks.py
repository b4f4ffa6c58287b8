"""The callbacks of other trainers, each with the trainer itself, and what it trains in an epoch."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from attnsurgeon.errors import UsageError
from attnsurgeon.training.callbacks.schedule import Schedule
from attnsurgeon.training.callbacks.ultralytics import FreezeBackbone as FreezeYolo
from tests.training.steps import attention, images, moved, operated, state, steps


def batches() -> list[Any]:
    return [(images(step), torch.zeros(3, dtype=torch.long)) for step in range(2)]


# ------------------------------------------------------------------ the schedule


@pytest.mark.parametrize(
    ("epochs", "frozen"), [(None, {0, 1, 2, 3}), (2, {0, 1}), (0, set()), (9, {0, 1, 2, 3})]
)
def test_the_backbone_is_frozen_in_the_first_epochs(epochs, frozen):
    model = operated()
    schedule = Schedule(epochs)
    found = set()
    for epoch in range(4):
        schedule.follow(model, epoch)
        found |= {epoch} - ({epoch} if model.fc.weight.requires_grad else set())
    assert found == frozen


def test_what_made_it_trainable_again_between_epochs_is_undone():
    model = operated()
    Schedule(2).follow(model, 0)
    model.requires_grad_(True)
    Schedule(2).follow(model, 1)
    before = state(model)
    steps(model, torch.optim.SGD(model.parameters(), 1e-3, weight_decay=0.1), range(1))
    assert moved(model, before) == attention(model)


@pytest.mark.parametrize("epochs", [-1, 1.5, "two"])
def test_no_number_of_epochs_is_refused(epochs):
    with pytest.raises(UsageError, match="no number of epochs"):
        Schedule(epochs)
    with pytest.raises(UsageError, match="neither"):
        Schedule(1, norm_statistics="thawed")


# ------------------------------------------------------------------ Lightning


def lightning_run(tmp_path: Any, epochs: int | None, *, last: int = 3, resume: Any = None, **more):
    """Train with Lightning; returns what moved in each epoch, and the trainer."""
    pl = pytest.importorskip("lightning.pytorch")
    from attnsurgeon.training.callbacks.lightning import FreezeBackbone
    from attnsurgeon.training.groups import param_groups

    class Task(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = operated(num_classes=7)
            self.seen: list[set[str]] = []

        def training_step(self, batch, index):
            return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self):
            return torch.optim.AdamW(param_groups(self, 1e-3, weight_decay=0.1))

    class Watch(pl.Callback):
        def on_train_epoch_start(self, trainer, module):
            self.before = state(module.net)

        def on_train_epoch_end(self, trainer, module):
            module.seen.append(moved(module.net, self.before))

    task = Task()
    trainer = pl.Trainer(
        max_epochs=last, accelerator="cpu", logger=False, enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False, default_root_dir=tmp_path,
        callbacks=[FreezeBackbone(epochs, **more), Watch()],
    )  # fmt: skip
    loader = torch.utils.data.DataLoader(batches(), batch_size=None)
    trainer.fit(task, loader, ckpt_path=resume, weights_only=False)
    return task, trainer


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Lightning's own, of loaders and of cores
def test_lightning_trains_what_is_new_and_then_everything_and_resumes_there(tmp_path):
    task, trainer = lightning_run(tmp_path, 1, last=1)
    new, everything = attention(task.net), set(task.net.state_dict())
    assert task.seen == [new]
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    resumed, _ = lightning_run(tmp_path, 1, last=2, resume=tmp_path / "one.ckpt")
    assert resumed.seen == [everything]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_lightning_freezes_all_through_before_the_optimizers_are_made(tmp_path):
    task, trainer = lightning_run(tmp_path, None, last=2)
    assert task.seen == [attention(task.net)] * 2
    held = sum(len(g["params"]) for g in trainer.optimizers[0].param_groups)
    assert held == len(attention(task.net))


def test_lightning_under_ddp_that_waits_for_all_gradients_is_refused():
    pytest.importorskip("lightning.pytorch")
    from attnsurgeon.training.callbacks.lightning import FreezeBackbone

    wrapped = nn.parallel.DistributedDataParallel.__new__(nn.parallel.DistributedDataParallel)
    trainer = SimpleNamespace(strategy=SimpleNamespace(model=wrapped))
    wrapped.__dict__["find_unused_parameters"] = False
    with pytest.raises(UsageError, match="DDP waits") as caught:
        FreezeBackbone(2).on_train_start(trainer, None)
    assert "ddp_find_unused_parameters_true" in str(caught.value.hint)
    FreezeBackbone(None).on_train_start(trainer, None)  # frozen before DDP was made
    wrapped.__dict__["find_unused_parameters"] = True
    FreezeBackbone(2).on_train_start(trainer, None)


# ------------------------------------------------------------------ Hugging Face


class Answering(nn.Module):
    """A network as the trainer wants it, that tells its loss."""

    def __init__(self) -> None:
        super().__init__()
        self.net = operated(num_classes=7)

    def forward(self, pixel_values, labels):
        logits = self.net(pixel_values)
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_trainer_of_transformers_trains_what_is_new_and_then_everything(tmp_path):
    transformers = pytest.importorskip("transformers")
    from attnsurgeon.training.callbacks.transformers import FreezeBackbone

    seen: list[set[str]] = []

    class Watch(transformers.TrainerCallback):
        def on_epoch_begin(self, args, state_, control, model, **more):
            self.before = state(model.net)

        def on_epoch_end(self, args, state_, control, model, **more):
            seen.append(moved(model.net, self.before))

    model = Answering()
    data = [{"pixel_values": image, "labels": 1} for image in images(0)]
    arguments = transformers.TrainingArguments(
        tmp_path, num_train_epochs=2, per_device_train_batch_size=3, use_cpu=True, report_to=[],
        save_strategy="no", logging_strategy="no", disable_tqdm=True, weight_decay=0.1,
    )  # fmt: skip
    trainer = transformers.Trainer(
        model, arguments, train_dataset=data, callbacks=[FreezeBackbone(1), Watch()]
    )
    trainer.train()
    assert seen[0] == attention(model.net)
    still = set(model.net.state_dict()) - seen[1]
    assert not any("running" in name or name == "fc.weight" for name in still)


@pytest.mark.parametrize(
    ("epoch", "frozen"),
    [(None, True), (0.9999, True), (1.0, False), (0.99999999, False), (1.5, False)],
)
def test_the_epoch_of_transformers_is_a_number_with_an_error(epoch, frozen):
    pytest.importorskip("transformers")
    from attnsurgeon.training.callbacks.transformers import FreezeBackbone

    model = operated()
    FreezeBackbone(1).on_epoch_begin(None, SimpleNamespace(epoch=epoch), None, model=model)
    assert model.fc.weight.requires_grad != frozen


def test_transformers_under_ddp_that_waits_for_all_gradients_is_refused():
    pytest.importorskip("transformers")
    from attnsurgeon.training.callbacks.transformers import FreezeBackbone

    def begin(epochs: int | None, size: int, told: bool | None) -> None:
        arguments = SimpleNamespace(world_size=size, ddp_find_unused_parameters=told)
        FreezeBackbone(epochs).on_train_begin(arguments, None, None)

    with pytest.raises(UsageError, match="DDP waits"):
        begin(2, 2, None)
    begin(2, 1, None)
    begin(2, 2, True)


# ------------------------------------------------------------------ ultralytics


def test_of_a_yolo_what_other_classes_gave_another_shape_is_trained():
    source, trained = operated(), operated(num_classes=7)
    callback = FreezeYolo(source, 1)
    trainer = SimpleNamespace(model=trained, epoch=0)
    callback(trainer)
    before = state(trained)
    steps(trained, torch.optim.SGD(trained.parameters(), 1e-3, weight_decay=0.1), range(1))
    assert moved(trained, before) == attention(trained) | {"fc.weight", "fc.bias"}
    trainer.epoch = 1
    callback(trainer)
    assert all(p.requires_grad for p in trained.parameters())

    same = operated()
    FreezeYolo(source)(SimpleNamespace(model=same, epoch=math.inf))
    assert {n for n, p in same.named_parameters() if p.requires_grad} == attention(same)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_ultralytics_trains_what_is_new_and_then_everything(tmp_path):
    ultralytics = pytest.importorskip("ultralytics")
    import attnsurgeon
    from attnsurgeon.integrations.ultralytics import trainer as trainer_of

    for split in ("train", "val"):
        for label in ("a", "b"):
            folder = tmp_path / "data" / split / label
            folder.mkdir(parents=True)
            from PIL import Image

            for at in range(2):
                Image.new("RGB", (32, 32), (40 * at, 90, 10)).save(folder / f"{at}.png")
    yolo = ultralytics.YOLO("yolov8n-cls.yaml")
    yolo.model = attnsurgeon.insert(yolo.model, "eca", "residual-branch").model
    seen: list[set[str]] = []
    before: dict[str, Any] = {}
    yolo.add_callback("on_train_epoch_start", FreezeYolo(yolo.model, 1))
    yolo.add_callback("on_train_epoch_start", lambda t: before.update(state(t.model)))
    yolo.add_callback("on_train_epoch_end", lambda t: seen.append(moved(t.model, before)))
    yolo.train(
        trainer=trainer_of(yolo.model), data=tmp_path / "data", epochs=2, imgsz=32, batch=2,
        device="cpu", workers=0, plots=False, project=str(tmp_path), name="run", amp=False,
        val=False, verbose=False, optimizer="SGD", warmup_epochs=0, nbs=2,
    )  # fmt: skip
    head = {name for name in before if name.startswith("model.9.linear")}
    attn = {name for name in before if "attn" in name and "running" not in name}
    assert seen[0] == attn | head
    assert any("running_mean" in name for name in seen[1])
    assert "model.0.conv.weight" in seen[1]
