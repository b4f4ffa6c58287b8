"""A network and one of its variants -> what was measured of both, as plain values."""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from attnsurgeon.cost.budgets import Budget, Limit, is_decided
from attnsurgeon.cost.measuring import SECONDS, measure
from attnsurgeon.errors import UsageError
from attnsurgeon.recording.inputs import InputForm
from attnsurgeon.recording.twin import full_twin


@dataclass(frozen=True)
class Timing:
    """How every row is measured.

    Attributes:
        times: measure the forward and the training step; else only the memory of a step.
        batch: images of a run.
        device: where; None where the weights are.
        threads: of the CPU; None for torch's own number.
        repeats, warm_up: pairs to measure at least, and before them; None for the usual.
        seconds: after which no more pairs of a row are measured.
    """

    times: bool = True
    batch: int = 1
    device: str | None = None
    threads: int | None = None
    repeats: int | None = None
    warm_up: int | None = None
    seconds: float = SECONDS

    def __post_init__(self) -> None:
        if self.device is not None:
            try:
                torch.empty(0, device=self.device)
            except (RuntimeError, AssertionError, NotImplementedError) as error:
                raise UsageError(
                    f"there is no device {self.device!r} here", "cpu is one everywhere"
                ) from error


def measured(
    before: nn.Module,
    after: nn.Module,
    form: InputForm,
    timing: Timing,
    limit: Limit | None = None,
) -> dict[str, Any]:
    """Measure two networks side by side on random inputs.

    Args:
        before, after: without and with attention; neither is changed.
        form: of the input.
        timing: how.
        limit: on the latency: measured until it is decided, or the time is up.
    """
    if timing.device is not None:
        to = torch.device(timing.device)
        before, after = (full_twin(model).to(to) for model in (before, after))
    made = measure(
        before,
        after,
        form.at_batch(timing.batch),
        times=timing.times,
        repeats=timing.repeats,
        warm_up=timing.warm_up,
        threads=timing.threads,
        seconds=timing.seconds,
        enough=None if limit is None else functools.partial(is_decided, Budget(max_latency=limit)),
    )
    return dataclasses.asdict(made)
