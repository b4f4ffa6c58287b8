"""nn.Module -> Survey: chooses an example input, records one forward, finds the sites."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import nn

from attnsurgeon.errors import ModelError, UsageError
from attnsurgeon.models import (
    arguments_asked,
    arguments_hint,
    build_on_meta,
    guess_input_sizes,
    load_model,
    size_hint,
)
from attnsurgeon.recording.examples import form_of_example
from attnsurgeon.recording.inputs import BATCH, InputForm
from attnsurgeon.recording.randomness import OwnDice
from attnsurgeon.recording.record import Traced
from attnsurgeon.recording.trace import SIZE_HINT, trace
from attnsurgeon.sites.survey import Survey, survey
from attnsurgeon.sizes import InputSize, checked, together

_LARGE = 500_000_000  # parameters; beyond, values in place of shapes would take more than 2 GB


def analyse(
    model: nn.Module,
    input_size: InputSize | None = None,
    example: Any = None,
    *,
    lines: bool = True,
) -> Survey:
    """Finds every site of `model`, which is not changed.

    Args:
        model: the network, on any device.
        input_size: (C, L), (C, H, W) or (C, D, H, W), or of a network with several inputs a tuple
            of these; None for the network's own, else a guess from its first layer.
        example: in place of a size, the input itself or its form, of any structure, as for
            `form_of_example`; only its shapes and the range of its numbers are used.
        lines: see `survey`.

    Raises:
        ModelError: the network cannot be run on the input, or on any that could be guessed.
        UsageError: both a size and an example were given.
    """
    return survey(record(model, input_size, example), lines=lines)


def sketch(
    spec: str, input_size: InputSize | None = None, example: Any = None, **model_args: Any
) -> tuple[nn.Module, Survey]:
    """Builds a network without weights and finds its sites.

    A network that looks at values (a detector keeps the boxes that score) cannot be run on meta;
    it is built again, with random weights, and run once. Nothing is downloaded either way.

    Args:
        spec: as for `load_model`.
        input_size, example: as for `analyse`.
        model_args: as for `load_model`.

    Returns:
        The network, on meta but for such a one, and its sites.

    Raises:
        ModelError: the network is unknown, cannot be built or cannot be run.
    """
    model = build_on_meta(spec, **model_args)
    try:
        return model, analyse(model, input_size, example)
    except ModelError:
        if sum(p.numel() for p in model.parameters()) > _LARGE:
            raise
    with OwnDice():
        model = load_model(spec, **model_args)
    return model, analyse(model, input_size, example)


def record(model: nn.Module, input_size: InputSize | None = None, example: Any = None) -> Traced:
    """Records one forward on an input, or on the first one that works."""
    if input_size is not None and example is not None:
        raise UsageError(
            "both a size and an example say what the input is",
            "give one of them: input_size= or example=",
        )
    if example is not None:
        return _on_example(model, form_of_example(example, model))
    if input_size is not None:
        return _on_size(model, checked(input_size))
    errors: list[ModelError] = []
    guesses = guess_input_sizes(model)
    asked = len(arguments_asked(model))
    several = [together((size,) * asked) for size in guesses] if asked > 1 else []
    for size in (*several, *guesses[: 1 if several else None]):
        try:
            return trace(model, InputForm.of_size(size))
        except ModelError as error:
            errors.append(error)
            if isinstance(error.__cause__, NotImplementedError):
                break  # without values there is no result, whatever the size
    # What it says of a single input is the most telling.
    raise _explained(errors[-1 if several else 0], model)


def _on_size(model: nn.Module, size: InputSize) -> Traced:
    try:
        return trace(model, InputForm.of_size(size))
    except ModelError as error:
        raise _explained(error, model) from error.__cause__


def _on_example(model: nn.Module, form: InputForm) -> Traced:
    """Records a forward at a batch of two where the network takes one, else on what was given."""
    at_two = form.at_batch(BATCH)
    try:
        return trace(model, at_two)
    except ModelError as error:
        if at_two == form:
            raise _explained(error, model, given=True) from error.__cause__
    try:
        return trace(model, replace(form, batched=False))
    except ModelError as error:
        raise _explained(error, model, given=True) from error.__cause__


def _explained(error: ModelError, model: nn.Module, *, given: bool = False) -> ModelError:
    """The error of a forward that did not run, with what the network itself says of its input."""
    if error.hint != SIZE_HINT:
        return error
    hint = arguments_hint(model) if given else size_hint(model)
    found = ModelError(error.what, hint)
    found.__cause__ = error.__cause__
    return found
