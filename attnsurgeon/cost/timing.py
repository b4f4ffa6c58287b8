"""Two things to run -> Latency: paired, interleaved runs in one process, median and spread.

Two separate measurements differ by what else the machine does. Here every pair runs back to back,
in alternating order, and the ratio is the median of the pairs' ratios. How well that is known says
the 95 % interval of its order statistics, which asks for no shape of the noise.
"""

from __future__ import annotations

import contextlib
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch

from attnsurgeon.cost.measured import Latency, Spread

Run = Callable[[], Any]
Watch = Callable[[Run], float]

REPEATS, WARM_UP = 20, 2  # pairs, where nobody says how many
_MANY = 1000  # values: the binomial distribution is the normal one, and no float holds its parts
_FEWEST = 2  # pairs of which a spread can be said


def paired(
    runs: Sequence[Run],
    watch: Watch,
    enough: Callable[[Latency], bool],
    *,
    until: float,
    repeats: int | None = None,
    warm_up: int | None = None,
) -> Latency:
    """Measures two runs in pairs: before, after, after, before, and so on.

    As few as possible decide when to stop: whether there are enough pairs is asked when their
    number has doubled, since an interval that is looked at after every pair is left by its median
    much more often than it says.

    Args:
        runs: the two, before and after.
        watch: runs one and returns the seconds it took.
        enough: tells of a latency whether it answers the question.
        until: `time.monotonic()` after which no more pairs are measured.
        repeats: pairs to measure at least, however long that takes; None for 20, or fewer where
            the time is up.
        warm_up: pairs before them that are thrown away, likewise; None for 2.
    """
    warmed = 0
    while warmed < (WARM_UP if warm_up is None else warm_up):
        _pair(runs, watch, warmed)
        warmed += 1
        if warm_up is None and time.monotonic() >= until:
            break
    least = _FEWEST if repeats is None else repeats
    goal = REPEATS if repeats is None else repeats
    pairs: list[tuple[float, float]] = []
    while True:
        while len(pairs) < goal and (len(pairs) < least or time.monotonic() < until):
            pairs.append(_pair(runs, watch, len(pairs)))
        measured = latency_of(pairs)
        answered = enough(measured)
        if answered or time.monotonic() >= until:
            return replace(measured, warm_up=warmed, undecided=not answered)
        goal *= 2


def _pair(runs: Sequence[Run], watch: Watch, index: int) -> tuple[float, float]:
    if index % 2:
        second, first = watch(runs[1]), watch(runs[0])
    else:
        first, second = watch(runs[0]), watch(runs[1])
    return first, second


def latency_of(pairs: list[tuple[float, float]]) -> Latency:
    """Returns what pairs of seconds, at least two, say of each and of their ratio."""
    first, second = zip(*pairs, strict=True)
    ratios = [after / before for before, after in pairs]
    return Latency(_spread(first), _spread(second), _spread(ratios), len(pairs))


def _spread(values: Any) -> Spread:
    q1, median, q3 = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(median, q1, q3, *_interval(sorted(values)))


def _interval(ordered: list[float]) -> tuple[float, float]:
    """The 95 % interval of the median: the order statistics that a fair coin leaves outside."""
    outside = _outside(len(ordered))
    return ordered[outside], ordered[-1 - outside]


def _outside(count: int) -> int:
    """How many of so many values may be left out at either end of the interval."""
    if count > _MANY:
        return math.floor((count - 1.96 * math.sqrt(count)) / 2) - 1
    outside, tail = 0, 0.5**count
    while tail + math.comb(count, outside + 1) * 0.5**count <= 0.025 and outside < count // 2 - 1:
        outside += 1
        tail += math.comb(count, outside) * 0.5**count
    return outside


def watch_of(device: torch.device) -> Watch:
    """Returns the clock of a device: its own events where it has them, else the processor's."""
    if device.type == "cpu":
        return on_the_clock
    module = torch.get_device_module(device)
    if hasattr(module, "Event"):
        return by_events(module)
    return lambda run: on_the_clock(run, lambda: torch.accelerator.synchronize(device))


def on_the_clock(run: Run, wait: Run = lambda: None) -> float:
    """Runs something and returns the seconds until it is done; `wait` waits for a device."""
    started = time.perf_counter()
    run()
    wait()
    return time.perf_counter() - started


def by_events(module: Any) -> Watch:
    """Returns a clock of the events of a device, which `module` (`torch.cuda`) makes.

    The events stand in the queue of the device around the work, so that neither the time to wake
    this process nor what the device did before counts; what the device waits for it does.
    """

    def watch(run: Run) -> float:
        start, end = module.Event(enable_timing=True), module.Event(enable_timing=True)
        start.record()
        run()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1000  # of milliseconds

    return watch


@contextlib.contextmanager
def cpu_threads(wanted: int | None) -> Iterator[None]:
    """Lets torch compute in so many CPU threads; the number is the process's, and put back."""
    usual = torch.get_num_threads()
    if wanted is not None:
        torch.set_num_threads(wanted)
    try:
        yield
    finally:
        if wanted is not None:
            torch.set_num_threads(usual)
