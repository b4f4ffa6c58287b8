"""ultralytics' `yolo.add_callback("on_train_epoch_start", FreezeBackbone(yolo.model, 2))`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from torch import nn

from attnsurgeon.training.callbacks.schedule import Schedule


class FreezeBackbone:
    """Train what is new alone in the first epochs, then everything; or it alone all through.

    What the dataset's classes give another shape is new, and is trained as well. The optimizer is
    made before anything is frozen, holds all parameters, and goes on as it is; a run that is
    resumed is in the phase of its epoch. With more than one GPU ultralytics starts processes that
    know of no callbacks: nothing is frozen there.

    Args:
        model: the operated network that the training starts from, `yolo.model`.
        epochs: for how many the backbone is frozen; None (the default) for all.
        keep, norm_statistics: as for `attnsurgeon.freeze_backbone`.

    Raises:
        UsageError: in the first epoch, if the network that is trained has no inserted attention.
    """

    def __init__(
        self,
        model: nn.Module,
        epochs: int | None = None,
        *,
        keep: str | Iterable[str] = (),
        norm_statistics: str = "frozen",
    ) -> None:
        self.shapes = {name: value.shape for name, value in model.named_parameters()}
        self.keep = (keep,) if isinstance(keep, str) else tuple(keep)
        self.schedule = Schedule(epochs, norm_statistics=norm_statistics)

    def __call__(self, trainer: Any) -> None:
        """Freeze, or unfreeze; `trainer` is at the start of an epoch."""
        model = getattr(trainer.model, "module", trainer.model)  # of a DDP
        other = [n for n, p in model.named_parameters() if self.shapes.get(n) != p.shape]
        keep = (*self.keep, *other)
        replace(self.schedule, keep=keep).follow(model, trainer.epoch)
