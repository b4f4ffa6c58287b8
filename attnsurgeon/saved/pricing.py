"""Operated network -> Cost: what all its attention costs, against the network without any."""

from __future__ import annotations

from torch import nn

from attnsurgeon.cost.comparing import Cost, compare
from attnsurgeon.cost.weighing import weigh
from attnsurgeon.recording.inputs import InputForm
from attnsurgeon.recording.twin import shared_twin
from attnsurgeon.splicing.removing import remove_all


def price(model: nn.Module, form: InputForm) -> Cost:
    """Weigh a network as it is now, and without its attention, for a batch of one.

    Args:
        model: the operated network; it is only read.
        form: of its input.

    Raises:
        ModelError: the network cannot be run on such an input any more.
    """
    inputs = form.at_batch(1)
    base = shared_twin(model)
    remove_all(base, refill=True)
    return compare(weigh(base, inputs), weigh(model, inputs), [])
