"""How far a sweep has come: Ray Tune calls, whoever waits is told. Imported where Ray is."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from ray import tune  # pyright: ignore[reportMissingImports]

Progress = Callable[[str, int, int], object]  # what was finished, how many are, of how many
# Ray pickles a callback with its sweep; taken up again, it finds here whom to tell.
_WAITING: dict[str, Progress] = {}


class Watch(tune.Callback):
    """Tells whoever waits for a sweep of each trial that has ended.

    Args:
        sweep: its name.
        key: of the settings, that says which variant a trial is of.
        of: how many trials there will be.
    """

    def __init__(self, sweep: str, key: str, of: int) -> None:
        self.sweep = sweep
        self.key = key
        self.of = of

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """Tells of a trial that came to its end, or was stopped."""
        self._tell(trials, trial)

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """Tells of one that failed for good."""
        self._tell(trials, trial)

    def _tell(self, trials: list[Any], trial: Any) -> None:
        if (tell := _WAITING.get(self.sweep)) is not None:
            ended = {one.trial_id for one in trials if one.is_finished()} | {trial.trial_id}
            tell(trial.config[self.key], len(ended), max(self.of, len(trials)))


@contextlib.contextmanager
def told(sweep: str, progress: Progress | None) -> Iterator[None]:
    """Has a function told of what ends in a sweep."""
    if progress is not None:
        _WAITING[sweep] = progress
    try:
        yield
    finally:
        _WAITING.pop(sweep, None)
