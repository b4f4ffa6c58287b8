"""Two networks + inputs -> Latency: paired, interleaved forwards in one run, median and spread.

Two separate measurements differ by what else the machine does. Here every pair runs back to back,
in alternating order, and the ratio is the median of the pairs' ratios.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from attnsurgeon.errors import UsageError
from attnsurgeon.recording.ambient import known_state
from attnsurgeon.recording.record import map_tensors
from attnsurgeon.recording.twin import shared_twin


@dataclass(frozen=True)
class Spread:
    """A median with its lower and upper quartile."""

    median: float
    lower: float
    upper: float


@dataclass(frozen=True)
class Latency:
    """Seconds of one forward before and after surgery.

    Attributes:
        before, after: over all pairs.
        ratio: median of after / before within a pair.
        ratios: the same with its quartiles.
        repeats: pairs measured.
        threads: CPU threads in use.
        device: where it ran.
    """

    before: Spread
    after: Spread
    ratios: Spread
    repeats: int
    threads: int
    device: str

    @property
    def ratio(self) -> float:
        """Median of after / before within a pair."""
        return self.ratios.median


@known_state(own_dice=False)
def latency(
    before: nn.Module, after: nn.Module, inputs: tuple[Any, ...], *, repeats: int = 20
) -> Latency:
    """Times two networks side by side, in eval mode, on the device of their weights.

    Args:
        before: the network as it was given; only a twin around its weights is run.
        after: the network operated on, on the same device.
        inputs: the positional inputs.
        repeats: pairs to measure, after two that are thrown away.

    Raises:
        UsageError: the weights are on meta, or there are fewer than two pairs.
    """
    if repeats < 2:
        raise UsageError(f"{repeats} repeats have no spread", "measure at least 2 pairs")
    device = next((p.device for p in before.parameters()), torch.device("cpu"))
    if device.type == "meta":
        raise UsageError(
            "latency cannot be measured on the meta device", "load the network with real weights"
        )
    values = map_tensors(inputs, lambda t: t.to(device))
    runs = [_timer(model, values, device) for model in (before, after)]
    pairs = [_pair(runs, swapped=index % 2 == 1) for index in range(repeats + 2)][2:]
    return Latency(
        _spread([first for first, _ in pairs]),
        _spread([second for _, second in pairs]),
        _spread([second / first for first, second in pairs]),
        repeats,
        torch.get_num_threads(),
        str(device),
    )


def _timer(model: nn.Module, inputs: tuple[Any, ...], device: torch.device) -> Callable[[], float]:
    twin = shared_twin(model).eval()

    def seconds() -> float:
        started = time.perf_counter()
        with torch.inference_mode():
            twin(*inputs)
        if device.type != "cpu":
            torch.accelerator.synchronize(device)
        return time.perf_counter() - started

    return seconds


def _pair(runs: list[Callable[[], float]], *, swapped: bool) -> tuple[float, float]:
    if swapped:
        second, first = runs[1](), runs[0]()
    else:
        first, second = runs[0](), runs[1]()
    return first, second


def _spread(values: list[float]) -> Spread:
    lower, median, upper = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(median, lower, upper)
