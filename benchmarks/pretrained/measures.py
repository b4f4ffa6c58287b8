"""A network and images -> what it answers, and how far its gates are shut or open."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

SHUT, OPEN = 0.05, 0.95  # a sigmoid beyond has less than a fifth of its steepest slope


@torch.no_grad()
def logits(model: nn.Module, images: Tensor, batch: int = 100) -> Tensor:
    """What the network answers in evaluation mode, (N, classes)."""
    model.eval()
    return torch.cat([model(part) for part in images.split(batch)])


def agreement(ours: Tensor, theirs: Tensor) -> float:
    """The share of samples for which two answers have the same largest logit."""
    return _share(ours.argmax(1) == theirs.argmax(1))


def accuracy(answers: Tensor, labels: Tensor) -> float:
    """The share of samples whose largest logit is that of their class."""
    return _share(answers.argmax(1) == labels)


def saturation(model: nn.Module, images: Tensor) -> float | None:
    """The share of all values of all sigmoids of a forward that are below 0.05 or above 0.95.

    The network itself has no sigmoid, so that these are the gates. None where there is none.
    """
    with _Sigmoids() as gates:
        logits(model, images)
    return gates.beyond / gates.all if gates.all else None


class _Sigmoids(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.beyond = self.all = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if getattr(func, "__name__", "") in ("sigmoid", "sigmoid_"):
            self.beyond += int(((result < SHUT) | (result > OPEN)).sum())
            self.all += result.numel()
        return result


def _share(hits: Tensor) -> float:
    return hits.double().mean().item()
