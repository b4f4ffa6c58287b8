"""Hugging Face's `Trainer(callbacks=[FreezeBackbone(2)])`."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from attnsurgeon.errors import UsageError
from attnsurgeon.training.callbacks.schedule import Schedule

try:
    from transformers import TrainerCallback  # pyright: ignore[reportMissingImports]
except ImportError as missing:
    raise UsageError(
        "this callback needs transformers", 'pip install "attnsurgeon[transformers]"'
    ) from missing


class FreezeBackbone(TrainerCallback):  # pyright: ignore[reportGeneralTypeIssues]
    """Train what is new alone in the first epochs, then everything; or it alone all through.

    The optimizer is made before anything is frozen, holds all parameters, and goes on as it is; a
    run that is resumed is in the phase of its epoch.

    Args:
        epochs: for how many the backbone is frozen; None (the default) for all.
        keep, norm_statistics: as for `attnsurgeon.freeze_backbone`.

    Raises:
        UsageError: at the start of a training: the network has no inserted attention, or DDP would
            wait for gradients that do not come (`ddp_find_unused_parameters=True`).
    """

    def __init__(
        self,
        epochs: int | None = None,
        *,
        keep: str | Iterable[str] = (),
        norm_statistics: str = "frozen",
    ) -> None:
        self.schedule = Schedule(epochs, keep, norm_statistics)

    def on_train_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Refuse a DDP that cannot do both phases."""
        if args.world_size > 1 and args.ddp_find_unused_parameters is not True:
            self.schedule.refuse_two_phases("TrainingArguments(ddp_find_unused_parameters=True)")

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Freeze, or unfreeze."""
        epoch = math.floor(round(state.epoch or 0, 6))  # a number of steps by one of steps
        self.schedule.follow(more["model"], epoch)
