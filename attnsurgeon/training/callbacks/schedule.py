"""Epoch of a training -> the network as it is to be trained in it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn

from attnsurgeon.errors import UsageError
from attnsurgeon.training.finetune import check_policy, freeze_backbone, unfreeze


@dataclass(frozen=True)
class Schedule:
    """When the backbone is frozen.

    Attributes:
        epochs: how many of the first; None: all.
        keep, norm_statistics: as for `freeze_backbone`.
    """

    epochs: int | None
    keep: str | Iterable[str] = ()
    norm_statistics: str = "frozen"

    def __post_init__(self) -> None:
        if self.epochs is not None and (not isinstance(self.epochs, int) or self.epochs < 0):
            raise UsageError(
                f"epochs={self.epochs!r} is no number of epochs", "None freezes in all of them"
            )
        check_policy(self.norm_statistics)

    def follow(self, model: nn.Module, epoch: int) -> None:
        """Bring a network into the state of an epoch, counted from 0, whatever came before."""
        if self.epochs is None or epoch < self.epochs:
            freeze_backbone(model, keep=self.keep, norm_statistics=self.norm_statistics)
        else:
            unfreeze(model)

    def refuse_two_phases(self, how: str) -> None:
        """Refuse to freeze for some epochs under a DDP that was not told of it, with a hint."""
        if self.epochs is not None:
            raise UsageError(
                f"DDP waits for the gradients of the backbone, frozen for {self.epochs} epochs", how
            )
