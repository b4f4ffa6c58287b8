"""nn.Module -> Survey: chooses an example input, records one forward, finds the sites."""

from __future__ import annotations

import inspect
from inspect import Parameter
from typing import Any

import torch
from torch import Tensor, nn

from attnsurgeon.errors import ModelError
from attnsurgeon.models import build_on_meta, guess_input_sizes, load_model
from attnsurgeon.recording.randomness import OwnDice
from attnsurgeon.recording.record import Traced
from attnsurgeon.recording.trace import trace
from attnsurgeon.sites.survey import Survey, survey
from attnsurgeon.sizes import InputSize, checked, each, together

_LARGE = 500_000_000  # parameters; beyond, values in place of shapes would take more than 2 GB
BATCH = 2  # so that the batch axis can be told from windows and heads folded into it


def analyse(model: nn.Module, input_size: InputSize | None = None) -> Survey:
    """Finds every site of `model`, which is not changed.

    Args:
        model: the network, on any device.
        input_size: (C, H, W) or (C, D, H, W), or of a network with several inputs a tuple of
            these; None for the network's own, else a guess from its first convolution.

    Raises:
        ModelError: the network cannot be run on the input, or on any that could be guessed.
    """
    return survey(record(model, input_size))


def sketch(
    spec: str, input_size: InputSize | None = None, **model_args: Any
) -> tuple[nn.Module, Survey]:
    """Builds a network without weights and finds its sites.

    A network that looks at values (a detector keeps the boxes that score) cannot be run on meta;
    it is built again, with random weights, and run once. Nothing is downloaded either way.

    Args:
        spec: as for `load_model`.
        input_size: as for `analyse`.
        model_args: as for `load_model`.

    Returns:
        The network, on meta but for such a one, and its sites.

    Raises:
        ModelError: the network is unknown, cannot be built or cannot be run.
    """
    model = build_on_meta(spec, **model_args)
    try:
        return model, analyse(model, input_size)
    except ModelError:
        if sum(p.numel() for p in model.parameters()) > _LARGE:
            raise
    with OwnDice():
        model = load_model(spec, **model_args)
    return model, analyse(model, input_size)


def record(model: nn.Module, input_size: InputSize | None = None) -> Traced:
    """Records one forward on an input of the given size, or of the first size that works."""
    if input_size is not None:
        return trace(model, example(checked(input_size)))
    errors: list[ModelError] = []
    guesses = guess_input_sizes(model)
    asked = _inputs_asked(model)
    several = [together((size,) * asked) for size in guesses] if asked > 1 else []
    for size in (*several, *guesses[: 1 if several else None]):
        try:
            return trace(model, example(size))
        except ModelError as error:
            errors.append(error)
            if isinstance(error.__cause__, NotImplementedError):
                break  # without values there is no result, whatever the size
    raise errors[-1 if several else 0]  # what it says of a single input is the most telling


def _inputs_asked(model: nn.Module) -> int:
    """How many arguments a forward cannot go without: two images are as likely as one is."""
    places = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
    asked = inspect.signature(model.forward).parameters.values()
    return sum(p.kind in places and p.default is Parameter.empty for p in asked)


def example(size: InputSize, batch: int = BATCH) -> tuple[Tensor, ...]:
    """Returns the inputs of a size, on meta."""
    return tuple(torch.empty(batch, *one, device="meta") for one in each(size))
