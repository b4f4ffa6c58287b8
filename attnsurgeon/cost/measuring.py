"""Two networks + inputs -> Measurement: forward, training step and its memory, side by side."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from attnsurgeon.cost.measured import Latency, Measurement, Memory, Settings
from attnsurgeon.cost.step_memory import peak_of
from attnsurgeon.cost.stepping import Step, forwards, steps, why_not
from attnsurgeon.cost.timing import WARM_UP, cpu_threads, paired, watch_of
from attnsurgeon.errors import UsageError
from attnsurgeon.recording.ambient import known_state
from attnsurgeon.recording.examples import form_of_example
from attnsurgeon.recording.inputs import InputForm, Inputs
from attnsurgeon.recording.randomness import dice_put_back
from attnsurgeon.recording.record import map_tensors
from attnsurgeon.recording.trace import as_taken

SECONDS = 60.0  # that measuring takes
PRECISION = 0.03  # of the median ratio: its interval is narrow enough
_FORWARD = 1 / 3  # of the time; a step takes about three times as long


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
        ModelError: a network cannot be copied, or the example is none.
    """
    _refuse_numbers(repeats, warm_up, threads, seconds)
    device = _device_of(before, after)
    form = form_of_example(example, before)
    drawn = form.drawn(torch.Generator().manual_seed(0))
    inputs = map_tensors(drawn, lambda t: as_taken(t.to(device), before))
    started = time.monotonic()
    models = before, after
    asked = {"repeats": repeats, "warm_up": warm_up}
    forward = step = memory = None
    with cpu_threads(threads), _on(device), dice_put_back(device):
        settings = _settings(before, form, device, warm_up, seconds)
        if times:
            with forwards(models, inputs) as runs:
                until = started + seconds * _FORWARD
                watch = watch_of(device)
                forward = paired(*runs, watch, enough or narrow, until=until, **asked)
        with steps(models, inputs) as stepped:
            why = _why_not(stepped, form)
            if not why:
                memory = _memory(stepped, device)
            if times and not why:
                until = started + seconds
                step = paired(*stepped, watch_of(device), narrow, until=until, **asked)
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


def _settings(
    model: nn.Module, form: InputForm, device: torch.device, warm_up: int | None, seconds: float
) -> Settings:
    weights = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    return Settings(
        form.batch,
        str(device),
        str(weights.dtype).removeprefix("torch."),
        torch.get_num_threads(),
        WARM_UP if warm_up is None else warm_up,
        seconds,
    )


def _why_not(stepped: list[Step], form: InputForm) -> str:
    why = next(filter(None, map(why_not, stepped)), "")
    if why and form.batch == 1 and form.batched:
        why += "; perhaps not of a batch of 1: try batch=2"
    return why


def _memory(stepped: list[Step], device: torch.device) -> Memory:
    peak, what = peak_of(device)
    before, after = (peak(step, step.held) for step in stepped)
    return Memory(before, after, what)


@contextlib.contextmanager
def _on(device: torch.device) -> Iterator[None]:
    """Makes a device the current one, whose queue events stand in."""
    module = None if device.type == "cpu" else torch.get_device_module(device)
    with module.device(device) if hasattr(module, "device") else contextlib.nullcontext():
        yield
