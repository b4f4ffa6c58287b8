"""Lightning's `Trainer(callbacks=[FreezeBackbone(2)])`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch.nn.parallel import DistributedDataParallel

from attnsurgeon.errors import UsageError
from attnsurgeon.splicing.history import inserted
from attnsurgeon.training.callbacks.schedule import Schedule

try:
    from lightning.pytorch import Callback  # pyright: ignore[reportMissingImports]
except ImportError as missing:
    raise UsageError(
        "this callback needs lightning", 'pip install "attnsurgeon[lightning]"'
    ) from missing


class FreezeBackbone(Callback):
    """Train what is new alone in the first epochs, then everything; or it alone all through.

    The module that is trained holds the operated network; what is around that is trained. With
    `epochs` the optimizers are configured before anything is frozen, hold all parameters, and go
    on as they are; a run that is resumed is in the phase of its epoch.

    Args:
        epochs: for how many the backbone is frozen; None (the default) for all.
        keep, norm_statistics: as for `attnsurgeon.freeze_backbone`; paths begin at the module
            that is trained.

    Raises:
        UsageError: at the start of a training: it has no inserted attention, or DDP would wait
            for gradients that do not come (`strategy="ddp_find_unused_parameters_true"`).
    """

    def __init__(
        self,
        epochs: int | None = None,
        *,
        keep: str | Iterable[str] = (),
        norm_statistics: str = "frozen",
    ) -> None:
        super().__init__()
        self.schedule = Schedule(epochs, keep, norm_statistics)

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Freeze for good before DDP looks at what is trainable."""
        if stage == "fit" and self.schedule.epochs is None and any(inserted(pl_module)):
            self.schedule.follow(pl_module, 0)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Refuse a DDP that cannot do both phases."""
        wrapped = trainer.strategy.model
        if isinstance(wrapped, DistributedDataParallel) and not wrapped.find_unused_parameters:
            self.schedule.refuse_two_phases('strategy="ddp_find_unused_parameters_true"')

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Freeze, or unfreeze."""
        self.schedule.follow(pl_module, trainer.current_epoch)
