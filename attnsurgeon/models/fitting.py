"""A state dict and a network -> the network with these weights, or the keys that do not fit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from attnsurgeon.errors import ModelError
from attnsurgeon.models.checkpoint import Checkpoint
from attnsurgeon.models.foreign import guarded, quote

_PREFIXES = ("module.", "model.", "_orig_mod.")


def fit_checkpoint(model: nn.Module, checkpoint: Checkpoint, *, what: str) -> tuple[str, ...]:
    """Copy the weights of a checkpoint into a network, in the network's dtypes.

    Args:
        model: is changed.
        checkpoint: as read.
        what: the network's name in messages.

    Returns:
        The prefixes that were stripped from the checkpoint's keys, outermost first.

    Raises:
        ModelError: keys are missing or unexpected, or shapes differ; the network is then of no
            use, for some weights are loaded.
    """
    own = model.state_dict()
    prefixes, state = _strip(checkpoint.state, own)
    # A plain dict, as of safetensors: batch norms then forgive a missing num_batches_tracked.
    outcome = guarded(
        lambda: model.load_state_dict(state, strict=False),
        lambda error: _misfit(checkpoint, what, model, state, error=error),
    )
    if outcome.missing_keys or outcome.unexpected_keys:
        raise _misfit(checkpoint, what, model, state)
    return prefixes


def _strip(state: dict[str, Any], own: Mapping[str, Any]) -> tuple[tuple[str, ...], dict[str, Any]]:
    """Strip the prefixes after which most keys are the network's; none if none helps.

    All chains are tried, not one prefix at a time: of `module.model.fc.weight` only the second
    step brings the key home.
    """
    best, most = ((), state), _shared(state, own)
    reached: list[tuple[tuple[str, ...], dict[str, Any]]] = [best]
    while reached:
        chain, current = reached.pop(0)
        for prefix in _PREFIXES:
            shorter = {key.removeprefix(prefix): value for key, value in current.items()}
            # Fewer keys: two became one, and a weight would be lost.
            if len(shorter) < len(current) or shorter.keys() == current.keys():
                continue
            step = ((*chain, prefix), shorter)
            reached.append(step)
            if (shared := _shared(shorter, own)) > most:
                best, most = step, shared
    return best


def _shared(state: Mapping[str, Any], own: Mapping[str, Any]) -> int:
    return len(state.keys() & own.keys())


def _misfit(
    checkpoint: Checkpoint,
    what: str,
    model: nn.Module,
    state: Mapping[str, Any],
    error: BaseException | None = None,
) -> ModelError:
    own = model.state_dict()
    missing = [k for k in own if k not in state and not k.endswith("num_batches_tracked")]
    unexpected = [key for key in state if key not in own]
    misshapen = {k: (_shape(state[k]), _shape(v)) for k, v in own.items() if k in state}
    misshapen = {key: pair for key, pair in misshapen.items() if pair[0] != pair[1]}
    if error and not misshapen:
        return ModelError(f"{checkpoint.name} cannot be loaded into {what}: {quote(error)}")
    counts = (
        f"{len(missing)} of its keys missing, {len(unexpected)} unexpected,"
        f" {len(misshapen)} of another shape"
    )
    shapes = [f"{k} {theirs}, here {ours}" for k, (theirs, ours) in misshapen.items()]
    lists = {"missing": missing, "unexpected": unexpected, "another shape": shapes}
    lines = [_first(title, keys) for title, keys in lists.items() if keys]
    named = checkpoint.attributes.get("names")
    hint = _hint(model, state, missing, unexpected, misshapen, named)
    first = f"{checkpoint.name} does not fit {what}: {counts}"
    return ModelError("\n  ".join([first, *lines]), hint)


def _first(title: str, keys: list[str], at_most: int = 5) -> str:
    more = len(keys) - at_most
    shown = "; ".join(keys[:at_most])
    return f"{title}: {shown}{f'; and {more} more' if more > 0 else ''}"


def _shape(value: Any) -> tuple[int, ...] | None:
    return tuple(value.shape) if isinstance(value, Tensor) else None


def _hint(
    model: nn.Module,
    state: Mapping[str, Any],
    missing: list[str],
    unexpected: list[str],
    misshapen: Mapping[str, tuple[Any, Any]],
    named: Any,
) -> str:
    if state.keys() and not state.keys() & model.state_dict().keys():
        return "none of the keys is the network's: this is a checkpoint of another architecture"
    stems = _input_channels(misshapen)
    others = [pair for key, pair in misshapen.items() if key not in stems]
    arguments = []
    classes = _classes(model, others, [_shape(state[key]) for key in unexpected])
    if isinstance(named, dict) and len(named) != len(getattr(model, "names", named)):
        classes = len(named)  # a YOLO knows its classes by name
    if classes:
        arguments.append(f"num_classes={classes}")
    if len(stems) == 1:
        arguments.append(f"in_chans={next(iter(stems.values()))}")
    if arguments:
        given = ", ".join(arguments)
        return f"build the network as the checkpoint's was: load_model(..., {given})"
    return (
        "build the network with the model arguments it was trained with, or name the network"
        " that this checkpoint is of"
    )


def _classes(
    model: nn.Module, misshapen: list[tuple[Any, Any]], unexpected: list[tuple[int, ...] | None]
) -> int | None:
    """The classes of the checkpoint, where its classifier is all that differs."""
    now = getattr(model, "num_classes", None)
    if now == 0 and not misshapen:  # built without a classifier, which the checkpoint has
        return next((shape[0] for shape in unexpected if shape and len(shape) == 2), None)
    counts = {
        (theirs[0], ours[0]) if theirs and ours and theirs[1:] == ours[1:] else None
        for theirs, ours in misshapen
    }
    pair = counts.pop() if len(counts) == 1 else None
    return pair[0] if pair and now in (None, pair[1]) else None


def _input_channels(misshapen: Mapping[str, tuple[Any, Any]]) -> dict[str, int]:
    """The convolutions that differ in their input channels alone, with the checkpoint's."""
    return {
        key: theirs[1]
        for key, (theirs, ours) in misshapen.items()
        if theirs and ours and len(theirs) == len(ours) >= 4
        if (theirs[0], theirs[2:]) == (ours[0], ours[2:])
    }
