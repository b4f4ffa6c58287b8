"""Operated network -> the epochs of a two-phase fine-tune, for a training loop of one's own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import nn

from attnsurgeon.errors import UsageError
from attnsurgeon.given import takes_networks
from attnsurgeon.training.finetune import freeze_backbone, unfreeze
from attnsurgeon.training.groups import Groups, param_groups


@takes_networks()
def two_phases(
    model: nn.Module,
    epochs: tuple[int, int],
    lr: float,
    *,
    new_lr: float | None = None,
    weight_decay: float = 0.0,
    layer_decay: float | None = None,
    keep: str | Iterable[str] = (),
    norm_statistics: str = "frozen",
    optimizer: Callable[[Groups], Any] = torch.optim.AdamW,
) -> Iterator[tuple[int, Any]]:
    """Run through the epochs of a fine-tune: first what is new learns alone, then all of it.

        for epoch, optimizer in attnsurgeon.two_phases(model, (2, 8), lr=1e-4, new_lr=1e-3):
            model.train()
            for images, labels in loader:
                optimizer.zero_grad()
                loss(model(images), labels).backward()
                optimizer.step()

    It is `freeze_backbone` before the first phase and `unfreeze` before the second, with one
    optimizer of `param_groups` for both: what is new goes on with the moments it has. A scheduler
    made in the first epoch is right for both. A loop that is left early leaves the network in the
    phase it is in.

    Args:
        model: the operated network, already where it trains.
        epochs: of each phase; 0 leaves one out.
        lr, new_lr, weight_decay, layer_decay: as for `param_groups`.
        keep, norm_statistics: as for `freeze_backbone`.
        optimizer: makes the optimizer of the groups, by default AdamW; arguments of its own by
            `functools.partial(torch.optim.SGD, momentum=0.9)`.

    Yields:
        The number of the epoch, from 0 through both phases, and the optimizer.

    Raises:
        UsageError: as of `param_groups` and `freeze_backbone`, at once; or `epochs` are not two
            numbers.
    """
    if len(epochs) != 2 or not all(isinstance(n, int) and n >= 0 for n in epochs):
        raise UsageError(f"epochs={epochs!r} are not two numbers of epochs", "epochs=(2, 8)")
    unfreeze(model)  # the optimizer has to hold all of it
    groups = param_groups(
        model, lr, new_lr=new_lr, weight_decay=weight_decay, layer_decay=layer_decay
    )
    made = optimizer(groups)
    if epochs[0]:
        freeze_backbone(model, keep=keep, norm_statistics=norm_statistics)
    return _epochs(model, epochs, made)


def _epochs(model: nn.Module, epochs: tuple[int, int], optimizer: Any) -> Iterator[tuple[int, Any]]:
    for epoch in range(sum(epochs)):
        if epochs[0] and epoch == epochs[0]:
            unfreeze(model)
        yield epoch, optimizer
