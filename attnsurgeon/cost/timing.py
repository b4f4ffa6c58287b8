"""Two networks + inputs -> Latency: paired, interleaved forwards in one run, median and spread.

Two separate measurements differ by what else the machine does. Here every pair runs back to back,
in alternating order, and the ratio is the median of the pairs' ratios. How well that is known says
the 95 % interval of its order statistics, which asks for no shape of the noise.
"""

from __future__ import annotations

import contextlib
import math
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from attnsurgeon.errors import UsageError
from attnsurgeon.recording.ambient import known_state
from attnsurgeon.recording.inputs import Inputs
from attnsurgeon.recording.record import map_tensors, tensors_in
from attnsurgeon.recording.twin import shared_twin
from attnsurgeon.shown import Shown


@dataclass(frozen=True)
class Spread:
    """A median with its lower and upper quartile."""

    median: float
    lower: float
    upper: float


@dataclass(frozen=True, repr=False)
class Latency(Shown):
    """Seconds of one forward before and after surgery.

    Attributes:
        before, after: over all pairs.
        ratio: median of after / before within a pair.
        ratios: the same with its quartiles.
        repeats: pairs measured.
        threads: CPU threads in use.
        device: where it ran.
        batch: images of a forward.
        interval: 95 % confidence interval of the median ratio.
    """

    before: Spread
    after: Spread
    ratios: Spread
    repeats: int
    threads: int
    device: str
    batch: int = 1
    interval: tuple[float, float] = (math.nan, math.nan)

    @property
    def ratio(self) -> float:
        """Median of after / before within a pair."""
        return self.ratios.median


@known_state(own_dice=False)
def latency(
    before: nn.Module,
    after: nn.Module,
    inputs: tuple[Any, ...] | Inputs,
    *,
    repeats: int = 20,
    warm_up: int = 2,
    threads: int | None = None,
    enough: Callable[[Latency], bool] | None = None,
    most_seconds: float = 60.0,
) -> Latency:
    """Times two networks side by side, in eval mode, on the device of their weights.

    Args:
        before: the network as it was given; only a twin around its weights is run.
        after: the network operated on, on the same device.
        inputs: the positional inputs, or all of them.
        repeats: pairs to measure at least.
        warm_up: pairs before them that are thrown away.
        threads: CPU threads to measure with; the setting is the process's, and put back.
        enough: tells of a measurement whether it answers the question; while it does not, more
            pairs are measured.
        most_seconds: after which no more pairs are measured for that.

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
    values = map_tensors(Inputs.of(inputs), lambda t: t.to(device))
    runs = [_timer(model, values, device) for model in (before, after)]
    batch = next((len(t) for t in tensors_in(values) if t.dim()), 1)
    until = time.monotonic() + most_seconds
    pairs: list[tuple[float, float]] = []
    with _threads(threads):
        for index in range(warm_up):
            _pair(runs, swapped=index % 2 == 1)
        while True:
            pairs += [_pair(runs, swapped=index % 2 == 1) for index in range(repeats)]
            measured = _measured(pairs, str(device), batch)
            if enough is None or enough(measured) or time.monotonic() > until:
                return measured


def _measured(pairs: list[tuple[float, float]], device: str, batch: int) -> Latency:
    ratios = sorted(second / first for first, second in pairs)
    return Latency(
        _spread([first for first, _ in pairs]),
        _spread([second for _, second in pairs]),
        _spread(ratios),
        len(pairs),
        torch.get_num_threads(),
        device,
        batch,
        _interval(ratios),
    )


def _interval(ordered: list[float]) -> tuple[float, float]:
    """The 95 % interval of the median: the order statistics that a fair coin leaves outside."""
    count = len(ordered)
    outside, tail = 0, 0.5**count
    while tail + math.comb(count, outside + 1) * 0.5**count <= 0.025 and outside < count // 2 - 1:
        outside += 1
        tail += math.comb(count, outside) * 0.5**count
    return ordered[outside], ordered[-1 - outside]


@contextlib.contextmanager
def _threads(wanted: int | None) -> Iterator[None]:
    usual = torch.get_num_threads()
    if wanted is not None:
        torch.set_num_threads(wanted)
    try:
        yield
    finally:
        if wanted is not None:
            torch.set_num_threads(usual)


def _timer(model: nn.Module, inputs: Inputs, device: torch.device) -> Callable[[], float]:
    twin = shared_twin(model).eval()

    def seconds() -> float:
        started = time.perf_counter()
        with torch.inference_mode():
            inputs.feed(twin)
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
