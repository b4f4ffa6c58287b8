"""Two networks + inputs -> Measurement: forward, training step and its memory, side by side."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from attnsurgeon.cost.measured import Latency, Measurement
from attnsurgeon.recording.inputs import Given

SECONDS = 60.0  # that all of it takes at most
PRECISION = 0.02  # width of the interval of the median ratio that is narrow enough


def measure(
    before: nn.Module,
    after: nn.Module,
    inputs: Given,
    *,
    times: bool = True,
    memory: bool = True,
    repeats: int | None = None,
    warm_up: int | None = None,
    threads: int | None = None,
    seconds: float = SECONDS,
    enough: Callable[[Latency], bool] | None = None,
) -> Measurement:
    """Measures two networks side by side, on the device of their weights; neither is changed.

    Only copies are run: the forward in eval mode, the training step (forward, backward, zero_grad)
    in training mode.

    Args:
        before: the network as it was given.
        after: the network operated on, on the same device; may be the same network.
        inputs: the positional inputs, or all of them; a form is drawn at random.
        times: measure the forward and the training step.
        memory: measure the memory of a training step.
        repeats: pairs to measure at least; default: 20, or fewer where the time is up.
        warm_up: pairs before them that are thrown away; default: 2.
        threads: CPU threads to measure with; the setting is the process's, and put back.
        seconds: after which no more pairs are measured, for the forward and the step together.
        enough: tells of a latency whether it answers the question; while it does not, more pairs
            are measured. Default: its interval is at most `PRECISION` wide.

    Raises:
        UsageError: the weights are on meta, or there are fewer than two pairs.
    """
    raise NotImplementedError
