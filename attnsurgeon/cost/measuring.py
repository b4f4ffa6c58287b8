"""Two networks + inputs -> Measurement: forward, training step and its memory, side by side."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from attnsurgeon.cost.measured import Latency, Measurement, Memory, Settings
from attnsurgeon.cost.step_memory import peak_of
from attnsurgeon.cost.stepping import forwards, in_short, steps
from attnsurgeon.cost.timing import cpu_threads, paired, watch_of
from attnsurgeon.errors import ModelError, SurgeonError, UsageError
from attnsurgeon.given import takes_networks
from attnsurgeon.recording.ambient import known_state
from attnsurgeon.recording.examples import form_of_example
from attnsurgeon.recording.inputs import InputForm, Inputs
from attnsurgeon.recording.randomness import dice_put_back
from attnsurgeon.recording.record import map_tensors
from attnsurgeon.recording.trace import as_taken

SECONDS = 60.0  # that measuring takes
PRECISION = 0.03  # of the median ratio: its interval is narrow enough
_FORWARD = 3  # part of the time that forwards have: a step takes about three times as long


@takes_networks("before", "after")
@known_state(own_dice=False)
def measure(
    before: nn.Module,
    after: nn.Module,
    example: Any,
    *,
    times: bool = True,
    repeats: int | None = None,
    warm_up: int | None = None,
    threads: int | None = None,
    seconds: float = SECONDS,
    enough: Callable[[Latency], bool] | None = None,
) -> Measurement:
    """Measures two networks side by side, on the device of their weights; neither is changed.

    Only copies are run, on random numbers: the forward in eval mode, the training step (forward,
    backward, zero_grad) in training mode. Random generators are put back afterwards, those of
    torch, of Python and of numpy; what other threads draw meanwhile they draw again.

    Args:
        before: the network as it was given.
        after: the network operated on, on the same device.
        example: what the forward is called with: a tensor, a tuple of positional arguments, a dict
            of named ones; with the batch to measure at. Only its form is used.
        times: measure the forward and the training step; else only the memory of a step.
        repeats: pairs to measure at least, however long it takes; default: 20, or fewer where the
            time is up.
        warm_up: pairs before them that are thrown away, likewise; default: 2.
        threads: CPU threads to measure with; the number is the process's, and put back.
        seconds: after which no more pairs are measured, for the forward and the step together.
        enough: tells of the forward's latency whether it answers the question; while it does not,
            more pairs are measured. Default, and always of the step: the 95 % interval of the
            median ratio is at most 3 % of it wide.

    Returns:
        The measurement; where a network cannot be trained on its inputs alone (a detector asks
        for targets) without `step` and `memory`, and `why` says why.

    Raises:
        UsageError: the weights are on meta, the networks are on different devices, or a number
            is too small.
        ModelError: a network cannot be copied or run, or the example is none.
    """
    _refuse_numbers(repeats, warm_up, threads, seconds)
    device = _device_of(before, after)
    bench = _Bench((before, after), form_of_example(example, before), device)
    asked = {"repeats": repeats, "warm_up": warm_up}
    started = time.monotonic()
    forward = None
    with cpu_threads(threads), _on(device), dice_put_back(device):
        settings = bench.settings(seconds)
        if times:
            forward = bench.forward(enough or narrow, until=started + seconds / _FORWARD, **asked)
        memory, step, why = bench.step(times, until=started + seconds, **asked)
        if why and bench.form.batched and bench.form.batch == 1:
            two = replace(bench, form=bench.form.at_batch(2))
            why += "" if two.step(False)[2] else "; at batch 2 there is one"
    return Measurement(settings, forward, step, memory, why)


def narrow(measured: Latency) -> bool:
    """Tells whether the median ratio is known well enough to be told."""
    ratio = measured.ratio
    return measured.has_interval and ratio.high - ratio.low <= PRECISION * ratio.median


def _refuse_numbers(
    repeats: int | None, warm_up: int | None, threads: int | None, seconds: float
) -> None:
    if repeats is not None and repeats < 2:
        raise UsageError(f"{repeats} repeats have no spread", "measure at least 2 pairs")
    if warm_up is not None and warm_up < 0:
        raise UsageError(f"warm_up={warm_up} is no number of pairs", "0 warms nothing up")
    if threads is not None and threads < 1:
        raise UsageError(f"threads={threads}: a CPU computes in 1 at least", "leave threads out")
    if not seconds >= 0:
        raise UsageError(f"seconds={seconds} is no time", f"{SECONDS:g} is the default")


def _device_of(before: nn.Module, after: nn.Module) -> torch.device:
    devices = {p.device for model in (before, after) for p in model.parameters()}
    if any(device.type == "meta" for device in devices):
        raise UsageError(
            "nothing can be measured on the meta device", "load the network with real weights"
        )
    if len(devices) > 1:
        names = " and ".join(sorted(map(str, devices)))
        raise UsageError(f"the weights are on {names}", "move both networks to one device")
    return next(iter(devices), torch.device("cpu"))


@dataclass(frozen=True)
class _Bench:
    """Two networks, the form of what they are run on, and where; copies are gone afterwards."""

    models: tuple[nn.Module, nn.Module]
    form: InputForm
    device: torch.device

    def settings(self, seconds: float) -> Settings:
        weights = (p for p in self.models[0].parameters() if p.is_floating_point())
        dtype = str(next(weights, torch.empty(0)).dtype).removeprefix("torch.")
        threads = torch.get_num_threads()
        return Settings(self.form.batch, str(self.device), dtype, threads, seconds)

    def forward(self, enough: Callable[[Latency], bool], **how: Any) -> Latency:
        """Times forwards; says of what a network raises that it was the network, and on what."""
        try:
            with forwards(self.models, self._inputs()) as runs:
                return paired(runs, watch_of(self.device), enough, **how)
        except SurgeonError:
            raise
        except (Exception, SystemExit) as error:  # a stranger's forward
            at = f"at batch {self.form.batch} on {self.device}"
            raise ModelError(
                f"the network cannot be run {at}: {in_short(error)}",
                "measure it with a batch or on a device that it runs with",
            ) from error

    def step(self, times: bool, **how: Any) -> tuple[Memory | None, Latency | None, str]:
        """Makes training steps: their memory and their time, or why there are none."""
        peak, what = peak_of(self.device)
        with steps(self.models, self._inputs()) as stepped:
            try:
                before, after = (peak(step, step.held) for step in stepped)
            except (Exception, SystemExit) as error:  # a stranger's training may need targets
                return None, None, in_short(error)
            took = paired(stepped, watch_of(self.device), narrow, **how) if times else None
            return Memory(before, after, what), took, ""

    def _inputs(self) -> Inputs:
        drawn = self.form.drawn(torch.Generator().manual_seed(0))
        return map_tensors(drawn, lambda t: as_taken(t.to(self.device), self.models[0]))


@contextlib.contextmanager
def _on(device: torch.device) -> Iterator[None]:
    """Makes a device the current one, whose queue events stand in."""
    if device.type == "cpu":
        yield
        return
    module = torch.get_device_module(device)
    with module.device(device) if hasattr(module, "device") else contextlib.nullcontext():
        yield
