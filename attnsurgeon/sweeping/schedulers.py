"""`asha(max_t=20)` -> a scheduler of Ray Tune's."""

from __future__ import annotations

import inspect
from typing import Any

from attnsurgeon.errors import UsageError, nearest
from attnsurgeon.grid.spelling import read_attn

# The names that people know -> those of `ray.tune.create_scheduler`.
NAMES = {
    "asha": "async_hyperband",
    "fifo": "fifo",
    "hyperband": "hyperband",
    "median": "median_stopping_rule",
}


def scheduler_of(text: str) -> Any:
    """Build the scheduler of a name with arguments.

    Raises:
        UsageError: there is none of that name, or it has no such argument.
    """
    from ray import tune  # pyright: ignore[reportMissingImports]

    try:
        spelled = read_attn(text)
    except UsageError as error:
        raise UsageError(
            error.what, "write a scheduler as asha(max_t=20, grace_period=2)"
        ) from error
    if spelled.name not in NAMES:
        raise UsageError(
            f"{spelled.name!r} is no scheduler here",
            f"{nearest(spelled.name, NAMES)}; in Python any of Ray Tune's will do",
        )
    kind = type(tune.create_scheduler(NAMES[spelled.name]))
    known = set(inspect.signature(kind).parameters) - {"metric", "mode", "stop_last_trials"}
    if unknown := [name for name in spelled.args if name not in known]:
        raise UsageError(
            f"the scheduler {spelled.name} has no {unknown[0]!r}", nearest(unknown[0], known)
        )
    try:
        return tune.create_scheduler(NAMES[spelled.name], **spelled.args)
    except (AssertionError, ValueError, TypeError) as error:
        raise UsageError(f"the scheduler {text} cannot be made: {error}") from error
