"""Two outputs of a network on the same images -> how far they are apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from attnsurgeon.recording.record import tensors_in
from attnsurgeon.shown import brief


@dataclass(frozen=True, repr=False)
class Effect:
    """How far outputs of a network moved, over images.

    Attributes:
        change: |moved - before| / |before| of all outputs of an image, its mean over the images.
        largest: the same, its maximum.
        top1_agreement: share of images whose largest class score stayed the same; None for a
            network without class scores (N, K).
        images: how many there were.
    """

    change: float
    largest: float
    top1_agreement: float | None
    images: int

    def __repr__(self) -> str:
        top1 = self.top1_agreement
        said = "" if top1 is None else f", top-1 agrees on {top1:.1%}"
        return brief(self, f"change {self.change:.3g}, at most {self.largest:.3g}{said}")


@dataclass
class Movement:
    """Adds up what `Effect` says, batch by batch.

    Attributes:
        why_not: why there is no effect to speak of, in words, or "".
    """

    why_not: str = ""
    _changes: list[Tensor] = field(default_factory=list)
    _agreed: list[Tensor] = field(default_factory=list)

    def add(self, before: Any, moved: Any, images: int) -> None:
        """Compares the outputs of one batch.

        Args:
            before, moved: what the network returned; of any structure.
            images: how many there were.
        """
        pairs = list(zip(_numbers(before), _numbers(moved), strict=False))
        if not pairs or any(a.shape != b.shape for a, b in pairs):
            self.why_not = self.why_not or "the outputs have other shapes without it"
            return
        apart = torch.zeros(images, dtype=torch.float64)
        norm = torch.zeros(images, dtype=torch.float64)
        for one, other in pairs:
            apart += _squares(one.double() - other.double(), images)
            norm += _squares(one.double(), images)
        ratio = apart.sqrt() / norm.sqrt()
        self._changes.append(torch.where(apart == 0, torch.zeros_like(ratio), ratio))
        scores, others = scores_of(before, images), scores_of(moved, images)
        if scores is not None and others is not None:
            self._agreed.append((scores.argmax(1) == others.argmax(1)).double().cpu())

    def effect(self) -> Effect | None:
        """Returns what was found, None where nothing was, or `why_not`."""
        if self.why_not or not self._changes:
            return None
        changes = torch.cat(self._changes)
        agreed = torch.cat(self._agreed) if self._agreed else None
        return Effect(
            float(changes.mean()),
            float(changes.max()),
            None if agreed is None else float(agreed.mean()),
            len(changes),
        )


def _numbers(outputs: Any) -> list[Tensor]:
    return [t.detach() for t in tensors_in(outputs) if t.is_floating_point() and t.numel()]


def _squares(tensor: Tensor, images: int) -> Tensor:
    """The sum of squares for each image; of what has no axis of images it counts for all."""
    if tensor.dim() and len(tensor) == images:
        return tensor.reshape(images, -1).square().sum(1).cpu()
    return tensor.square().sum().cpu().expand(images)


def scores_of(outputs: Any, images: int) -> Tensor | None:
    """Returns the class scores (N, K) among the outputs of so many images; None without."""
    named = outputs.get("logits") if isinstance(outputs, Mapping) else None
    found = [named] if isinstance(named, Tensor) else _numbers(outputs)[:1]
    score = next((t for t in found if t.dim() == 2 and t.shape[1] > 1), None)
    return score if score is not None and len(score) == images else None
