"""Start, mechanism and schedule -> how a network with it learns to tell digits.

A schedule is written as it is read: `2@1e-3*10` is two epochs at a rate of 1e-3 with ten times that
for what is new; `1@1e-3 frozen, 1@1e-4` one epoch of what is new alone, and one of everything.
"""

from __future__ import annotations

import copy
import functools
import os
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.pretrained import material
from benchmarks.pretrained.measures import accuracy, agreement, logits, saturation

BATCH = 32
EARLY = 8  # steps after which the network is looked at for the first time
TRANSFER = "4@1e-3"  # how the network of ImageNet learnt digits before it was operated
MAIN = "2@3e-4"
HEAD = "_fc"
FROZEN_FIRST = "1@1e-3 frozen,1@3e-4"
RECIPE = "1@1e-3 frozen,1@1e-4*10"
NEW_HEAD = ("4@3e-4", "4@3e-4*10", "2@1e-3 frozen,2@3e-4", "2@1e-3 frozen,2@1e-4*10")
LONG = "8@3e-4"
FIRST = (
    ("none", "identity", MAIN, "2@1e-3"),
    ("se", "identity", MAIN),
    ("se", "paper", MAIN),
    (
        "cbam",
        "identity",
        MAIN,
        "2@3e-4*3",
        "2@3e-4*10",
        "2@1e-3",
        "2@1e-3*10",
        "2@1e-4*10",
        FROZEN_FIRST,
        RECIPE,
    ),
    ("cbam", "paper", MAIN),
    ("coord", "identity", MAIN),
    ("coord", "paper", MAIN),
)
SECOND = (
    ("eca", "identity", MAIN),
    ("eca", "paper", MAIN),
    ("triplet", "identity", MAIN),
    ("triplet", "paper", MAIN),
    ("none", "identity", "2@1e-4"),
    ("cbam", "identity", "2@1e-4", "2@1e-4*3", "2@1e-3*3"),
)
LAST = (
    ("se", "identity", "2@3e-4*3", "2@3e-4*10", "2@1e-4*10", FROZEN_FIRST, RECIPE),
    *((attn, "identity", LONG) for attn in ("none", "se", "eca", "cbam")),
)


def first_jobs(seed: int) -> list[str]:
    """What shows most, trained with one seed: both starts, the rate, and freezing first."""
    return _named("transferred", FIRST, seed)


def second_jobs(seed: int) -> list[str]:
    """More mechanisms, and the rate of the attention at other rates of the network."""
    return _named("transferred", SECOND, seed)


def last_jobs(seed: int) -> list[str]:
    """A classifier that is new, another mechanism, more epochs."""
    new = tuple((attn, "identity", *NEW_HEAD) for attn in ("none", "cbam"))
    return _named("imagenet", new, seed) + _named("transferred", LAST, seed)


def _named(start: str, cases: tuple[tuple[str, ...], ...], seed: int) -> list[str]:
    return [
        f"train|{start}|{attn}|{init}|{schedule}|{seed}"
        for attn, init, *schedules in cases
        for schedule in schedules
    ]


@dataclass(frozen=True)
class Phase:
    """Epochs in which everything is trained, or what is new alone."""

    epochs: int
    lr: float
    factor: float
    frozen: bool

    @classmethod
    def of(cls, text: str) -> Phase:
        found = re.fullmatch(r"(\d+)@([\d.e-]+)(?:\*(\d+))?( frozen)?", text.strip())
        if not found:
            raise ValueError(f"{text!r} is no phase")
        return cls(int(found[1]), float(found[2]), float(found[3] or 1), bool(found[4]))


def measured(start: str, attn: str, init: str, schedule: str, seed: int) -> dict[str, Any]:
    """Operates a network, trains it, and measures it before, early and after.

    Args:
        start: "transferred", which knows digits, or "imagenet", with a classifier that is new.
        attn: the mechanism, at its own placement, or "none".
        init: "identity" or "paper".
        schedule: phases.
        seed: of the digits, the attention and the training.
    """
    digits = material.digits(seed)
    images, labels = digits.test
    model, theirs = _network(start, seed), None
    if start == "transferred":
        theirs = logits(model, images)
    torch.manual_seed(seed)
    model = _operated(model, attn, init).to(memory_format=torch.channels_last)

    def seen(model: nn.Module) -> dict[str, float]:
        ours = logits(model, images)
        shown = {"accuracy": accuracy(ours, labels)}
        return shown if theirs is None else shown | {"agreement": agreement(ours, theirs)}

    found: dict[str, Any] = {"params": sum(p.numel() for p in model.parameters())}
    if theirs is not None and schedule == MAIN:
        found["before"] = seen(model)
        found["before recalibrated"] = seen(_recalibrated(copy.deepcopy(model), digits.tune[0]))
    new_head = start == "imagenet"
    for step, _ in enumerate(_trained(model, digits.tune, schedule, seed, new_head), 1):
        if step == EARLY:
            found["early"] = {"saturation": saturation(model, images[:100])}
    found["after"] = {"saturation": saturation(model, images[:100]), **seen(model)}
    found["after recalibrated"] = seen(_recalibrated(model, digits.tune[0]))
    return found


def _operated(model: nn.Module, attn: str, init: str) -> nn.Module:
    import attnsurgeon

    return model if attn == "none" else attnsurgeon.insert(model, attn, init=init).model


def _recalibrated(model: nn.Module, images: Tensor) -> nn.Module:
    import attnsurgeon

    attnsurgeon.recalibrate_norms(model, images.split(64))
    return model


def _trained(
    model: nn.Module, data: tuple[Tensor, Tensor], schedule: str, seed: int, new_head: bool
) -> Iterator[None]:
    """Trains a network; yields after every step."""
    torch.manual_seed(seed)
    order = torch.Generator().manual_seed(seed)
    images, labels = data
    for phase in map(Phase.of, schedule.split(",")):
        optimiser = torch.optim.AdamW(_groups(model, phase, new_head))
        for _ in range(phase.epochs):
            for batch in torch.randperm(len(images), generator=order).split(BATCH):
                _training(model, phase)
                optimiser.zero_grad()
                F.cross_entropy(model(images[batch]), labels[batch]).backward()
                optimiser.step()
                yield


def _groups(model: nn.Module, phase: Phase, new_head: bool) -> list[dict[str, Any]]:
    """Makes trainable what a phase trains; returns it as an optimiser takes it."""
    import attnsurgeon
    from attnsurgeon.splicing.history import inserted

    if any(inserted(model)):
        (attnsurgeon.freeze_backbone if phase.frozen else attnsurgeon.unfreeze)(model)
        return attnsurgeon.param_groups(model, phase.lr, new_lr=phase.lr * phase.factor)
    head = [p for name, p in model.named_parameters() if name.startswith(f"{HEAD}.") and new_head]
    rest = [p for p in model.parameters() if not any(p is own for own in head)]
    for parameter in rest:
        parameter.requires_grad_(not phase.frozen)
    groups = [(head, phase.lr * phase.factor), ([] if phase.frozen else rest, phase.lr)]
    return [{"params": own, "lr": lr, "weight_decay": 0.0} for own, lr in groups if own]


def _training(model: nn.Module, phase: Phase) -> None:
    """Puts a network into training mode; without attention its frozen norms by hand."""
    model.train()
    if phase.frozen:
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d) and not module.weight.requires_grad:
                module.eval()


def _network(start: str, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    if start == "imagenet":
        return material.network(num_classes=10, new_head=True)
    return material.network(_transferred(seed), num_classes=10)


@functools.cache
def _transferred(seed: int) -> Path:
    """The weights of a network that learnt digits; made once, for all processes."""
    name = f"attnsurgeon-evidence-{material.SIDE}-{material.TRANSFER}-{TRANSFER}-{seed}.pth"
    file = Path(tempfile.gettempdir()) / name
    if not file.exists():
        model = _network("imagenet", seed).to(memory_format=torch.channels_last)
        data = material.digits(seed).transfer
        for _ in _trained(model, data, TRANSFER, seed, new_head=True):
            pass
        draft = file.with_suffix(f".{os.getpid()}")
        torch.save(_recalibrated(model, data[0]).state_dict(), draft)
        draft.replace(file)
    return file
