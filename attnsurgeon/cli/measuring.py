"""Options that say what is measured, and what an operation may cost."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import click

from attnsurgeon.cli.options import Command, Function

_UP_FROM_0, _UP_FROM_1, _UP_FROM_2 = (click.IntRange(min=n) for n in range(3))


@dataclass(frozen=True)
class Measuring:
    """Whether and how latency and memory are measured.

    Attributes:
        asked: whether anything is.
        times: whether latency is, else only memory.
        batch: images of a run.
        device: where; None where the weights are.
        threads: of the CPU; None for torch's own number.
        repeats, warm_up: pairs to measure at least, and before them; None for the usual.
        seconds: to measure; None for the usual.
    """

    asked: bool = False
    times: bool = False
    batch: int | None = None
    device: str | None = None
    threads: int | None = None
    repeats: int | None = None
    warm_up: int | None = None
    seconds: float | None = None

    @property
    def arguments(self) -> dict[str, Any]:
        """For `measure`, those that were given."""
        names = ("threads", "repeats", "warm_up", "seconds")
        given = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        return {"times": self.times, **given}

    def refuse_unmeasured(self) -> None:
        """Refuses options about a measurement that is not asked for."""
        for name in ("repeats", "warm_up", "seconds", "batch", "device", "threads"):
            counts = self.asked if name in ("batch", "device", "threads") else self.times
            if getattr(self, name) is not None and not counts:
                option = name.replace("_", "-")
                raise click.UsageError(f"--{option} is about --latency, which is not asked for")


def measuring(function: Command) -> Command:
    """Whether and how latency is measured: the command gets `timing`."""

    @functools.wraps(function)
    def command(
        *,
        latency: bool,
        batch: int | None,
        device: str | None,
        threads: int | None,
        repeats: int | None,
        warm_up: int | None,
        seconds: float | None,
        **rest: Any,
    ) -> Any:
        times = latency or rest.get("max_latency") is not None
        asked = times or rest.get("max_memory") is not None
        timing = Measuring(asked, times, batch, device, threads, repeats, warm_up, seconds)
        timing.refuse_unmeasured()
        return function(timing=timing, **rest)

    for decorate in (
        click.option("--warm-up", type=_UP_FROM_0, help="Pairs to throw away first.  [default: 2]"),
        click.option(
            "--repeats",
            type=_UP_FROM_2,
            help="Pairs to measure at least.  [default: 20, fewer where the time is up]",
        ),
        click.option(
            "--seconds",
            type=click.FloatRange(min=0),
            help="Start no more pairs after so long.  [default: 60]",
        ),
        click.option("--threads", type=_UP_FROM_1, help="CPU threads to measure with."),
        click.option("--device", metavar="NAME", help="Where to measure: cpu, cuda, cuda:1, mps."),
        click.option("--batch", type=_UP_FROM_1, help="Images to measure with.  [default: 1]"),
        click.option(
            "--latency",
            is_flag=True,
            help="Also measure a forward, a training step and its memory, before and after.",
        ),
    ):
        command = decorate(command)
    return command


def budgets(function: Function) -> Function:
    """What the operation may cost; limits on latency and memory are measured: `measuring`."""
    for decorate in (
        click.option(
            "--max-memory",
            metavar="LIMIT",
            help="Refuse above it, of a training step: +5%, +20MB, 1.5GB.",
        ),
        click.option(
            "--max-latency",
            metavar="LIMIT",
            help="Refuse above it, of a forward: +5%, +0.5ms, 20ms.",
        ),
        click.option("--max-macs", metavar="LIMIT", help="Refuse above it: +1%, +10M, 4.2G."),
        click.option("--max-params", metavar="LIMIT", help="Refuse above it: +2%, +0.5M, 30M."),
    ):
        function = decorate(function)
    return function
