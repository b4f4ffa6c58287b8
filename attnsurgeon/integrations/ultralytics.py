"""`YOLO(...).train()` -> the operated network is what is trained.

ultralytics trains a network that it builds anew from its YAML, in which no attention stands, and
loads the weights that fit: the attention would be lost without a word. The trainer of this module
repeats the surgery on what was built, before the weights are loaded.

    from attnsurgeon.integrations.ultralytics import trainer

    yolo = YOLO("yolov8n.pt")
    yolo.model = attnsurgeon.insert(yolo.model, "eca", "residual-branch").model
    yolo.train(trainer=trainer(yolo.model), data="coco8.yaml")
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from attnsurgeon.errors import UsageError
from attnsurgeon.splicing.history import history
from attnsurgeon.splicing.replay import replay


def trainer(model: nn.Module) -> type[Any]:
    """Make the class of trainers that train this operated network.

    What it writes, `best.pt` and `last.pt`, has the attention, and so has the `YOLO` object after
    training. Training goes on from the weights of `model`, unless `pretrained` names a file or is
    False, or a run is resumed. The dataset may have other classes, as ever.

    Args:
        model: an operated YOLO of ultralytics, of any task whose trainer builds networks by
            `get_model` (detect, segment, pose, obb, classify). It is only read; what it was when
            training starts counts.

    Returns:
        A subclass of ultralytics' own trainer of the task, for `YOLO(...).train(trainer=...)`.

    Raises:
        UsageError: the network has no attention, or is none of ultralytics' tasks.
    """
    if not history(model):
        raise UsageError(
            "this network has no attention to train", "operate it first: attnsurgeon.insert(...)"
        )
    base = _trainer_of(model)

    class OperatedTrainer(base):
        def get_model(self, cfg: Any = None, weights: Any = None, verbose: bool = True) -> Any:
            built = super().get_model(cfg, None, verbose)
            replay(built, [_on(self.data["channels"], record) for record in history(model)])
            start = _start(weights, model, self.args.pretrained)
            if start is not None:
                built.load(start)
            return built

    OperatedTrainer.__name__ = OperatedTrainer.__qualname__ = f"Operated{base.__name__}"
    return OperatedTrainer


def _trainer_of(model: Any) -> type[Any]:
    """The trainer that ultralytics itself takes for a network."""
    from ultralytics import YOLO  # pyright: ignore[reportMissingImports, reportAttributeAccessIssue]
    from ultralytics.nn.tasks import BaseModel, guess_model_task  # pyright: ignore[reportMissingImports]

    task = guess_model_task(model) if isinstance(model, BaseModel) else ""
    found = YOLO.__new__(YOLO).task_map.get(str(task), {}).get("trainer")
    if found is None:
        raise UsageError(
            f"this {type(model).__name__} is no YOLO that ultralytics trains",
            "pass the network itself, yolo.model",
        )
    return found


def _on(channels: int, record: Mapping[str, Any]) -> dict[str, Any]:
    """The record of an operation, for images of the dataset's channels."""
    size = [channels, *list(record["input_size"])[1:]]
    return {**record, "input_size": size, "example": None}


def _start(weights: Any, model: nn.Module, pretrained: Any) -> Any:
    """The network whose weights training starts from; None for a random start."""
    named = isinstance(pretrained, (str, Path))
    if named or (weights is not None and history(weights)):
        return weights
    return None if pretrained is False else model
