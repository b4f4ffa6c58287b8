"""`YOLO(...).train()` -> the operated network is what is trained, resumed and tuned.

ultralytics trains a network that it builds anew from its YAML, in which no attention stands, and
loads the weights that fit. The trainers of this module repeat the surgery on what was built, before
the weights are loaded; the class `YOLO` uses them by itself:

    from attnsurgeon.integrations.ultralytics import YOLO

    yolo = YOLO("yolov8n.pt")
    yolo.model = attnsurgeon.insert(yolo.model, "eca", "residual-branch").model
    yolo.train(data="coco8.yaml")
    YOLO("runs/detect/train/weights/last.pt").train(resume=True)

and so do the commands of ultralytics, run through it:

    python -m attnsurgeon.integrations.ultralytics train model=last.pt data=coco8.yaml
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from attnsurgeon.errors import UsageError
from attnsurgeon.forwards.retype import original_class
from attnsurgeon.splicing.configs import Description
from attnsurgeon.splicing.history import history, inserted
from attnsurgeon.splicing.replay import replay

try:
    # By name: a type checker without the library takes this file, which is called so, for it.
    ultralytics: Any = importlib.import_module("ultralytics")
    from ultralytics.engine import trainer as engine  # pyright: ignore[reportMissingImports]
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        'this needs ultralytics: pip install "attnsurgeon[ultralytics]"', name=error.name
    ) from error


def trainer(model: nn.Module) -> type[Any]:
    """Make the class of trainers that train this operated network, for ultralytics' own `YOLO`.

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
    return _operating(_trainer_of(model), model)


def _operating(base: type[Any], model: nn.Module | None) -> type[Any]:
    """Trainers that repeat the surgery of `model`, or of the network whose run is resumed."""
    if getattr(base, "_repeats_surgery", False):
        return base

    class OperatedTrainer(base):
        _repeats_surgery = True

        def get_model(self, cfg: Any = None, weights: Any = None, verbose: bool = True) -> Any:
            return _built(self, super().get_model, model, cfg, weights, verbose)

    OperatedTrainer.__name__ = OperatedTrainer.__qualname__ = f"Operated{base.__name__}"
    return OperatedTrainer


def _built(
    run: Any,
    build: Callable[..., Any],
    model: nn.Module | None,
    cfg: Any,
    weights: Any,
    verbose: bool,
) -> Any:
    """The network that a run trains: built by ultralytics, operated, then given its weights."""
    operated = weights is not None and bool(history(weights))
    if model is None and operated and not run.resume:
        raise UsageError(
            "the weights to start from are those of a network with attention, and the network that"
            " is trained has none",
            f"train that network itself: YOLO({str(run.args.pretrained)!r}).train(...)",
        )
    source = weights if run.resume and operated else model
    if source is None:
        return build(cfg, weights, verbose)
    plain = dict(cfg) if isinstance(cfg, Description) else cfg
    built = build(plain, None, verbose)
    replay(built, [_on(run.data["channels"], record) for record in history(source)])
    start = _start(weights, source, run.args.pretrained)
    if start is not None:
        _check_taken_over(start, built)
        built.load(start)
    return built


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


def _check_taken_over(start: nn.Module, built: nn.Module) -> None:
    """ultralytics loads what fits, and passes over the rest."""
    there = {name: tensor.shape for name, tensor in built.state_dict().items()}
    for path, part in inserted(start):
        for name, tensor in part.state_dict().items():
            if there.get(f"{path}.{name}") != tensor.shape:
                raise UsageError(
                    f"the weights of the attention at {path} have no place in the network that is"
                    " trained",
                    "start from a network with the same attention",
                )


def _trainer_of(model: Any) -> type[Any]:
    """The trainer that ultralytics itself takes for a network."""
    from ultralytics.nn.tasks import BaseModel, guess_model_task  # pyright: ignore[reportMissingImports]

    task = str(guess_model_task(model)) if isinstance(model, BaseModel) else ""
    for kind in (ultralytics.YOLO, ultralytics.RTDETR):
        found = kind.__new__(kind).task_map.get(task, {})
        if found and issubclass(original_class(model), found["model"]):
            return found["trainer"]
    raise UsageError(
        f"this {type(model).__name__} is no YOLO that ultralytics trains",
        "pass the network itself, yolo.model",
    )


class _Operated:
    """What `YOLO` and its kin have in addition: training keeps the attention of their network."""

    model: Any
    _smart_load: Any

    def train(self, trainer: Any = None, **arguments: Any) -> Any:
        """Train, as ultralytics does, with the attention of the network.

        Args:
            trainer: a class of trainers of your own; the surgery is repeated there as well.
            **arguments: of ultralytics.
        """
        if not isinstance(self.model, nn.Module):  # the library has an answer to that
            return super().train(trainer, **arguments)  # type: ignore[misc]
        base = trainer or self._smart_load("trainer")
        operated = self.model if history(self.model) else None
        return super().train(_operating(base, operated), **arguments)  # type: ignore[misc]

    def tune(self, use_ray: bool = False, iterations: int = 300, *args: Any, **kw: Any) -> Any:
        """Tune, as ultralytics does, with the attention of the network."""
        with _own_command():
            return super().tune(use_ray, iterations, *args, **kw)  # type: ignore[misc]


@contextlib.contextmanager
def _own_command() -> Iterator[None]:
    """Lets the trainings that ultralytics runs as commands be run through this module."""
    name = "_YOLO_CLI_COMMAND"
    theirs = getattr(engine, name, None)
    if theirs is None:
        raise UsageError(
            "this version of ultralytics runs the trainings of a tuning in a way that is not known"
            " here, and the attention might be lost",
            "tune(use_ray=True), or a loop over train()",
        )
    setattr(engine, name, [sys.executable, "-m", "attnsurgeon.integrations.ultralytics"])
    try:
        yield
    finally:
        setattr(engine, name, theirs)


@functools.cache
def _operated(kind: type[Any]) -> type[Any]:
    return type(kind.__name__, (_Operated, kind), {})


class YOLO(_Operated, ultralytics.YOLO):
    """ultralytics' `YOLO`, whose trainings keep the attention of its network.

    `train`, also again, with `resume=True`, over several datasets or on several devices, and
    `tune`. Everything else is as there.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not isinstance(self, _Operated):  # it has turned itself into a RTDETR, YOLOWorld, YOLOE
            self.__class__ = _operated(type(self))


def main() -> None:
    """Run a command of ultralytics with the networks of this module."""
    from ultralytics.cfg import entrypoint  # pyright: ignore[reportMissingImports]

    from attnsurgeon.integrations import ultralytics as own  # by its name, not as __main__

    for name in ("YOLO", "RTDETR"):
        kept = own.YOLO if name == "YOLO" else own._operated(getattr(ultralytics, name))
        setattr(ultralytics, name, kept)
    entrypoint()


if __name__ == "__main__":
    main()
