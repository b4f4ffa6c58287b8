"""The generators of random numbers that any forward may draw from, as they stood."""

from __future__ import annotations

import contextlib
import random
import sys
from collections.abc import Iterator

import torch


class Dice:
    """The states of Python's, numpy's and torch's global generators (torch's on the CPU)."""

    def __init__(self) -> None:
        # numpy is no dependency: where nobody imported it, nobody has drawn from it.
        self._numpy = getattr(sys.modules.get("numpy"), "random", None)
        self._states = self._read()

    def thrown(self) -> bool:
        """Whether a number has been drawn since."""
        (python, ours, theirs), (python_now, ours_now, theirs_now) = self._states, self._read()
        if python != python_now or not torch.equal(ours, ours_now):
            return True
        return theirs is not None and (
            theirs[2:] != theirs_now[2:] or bool((theirs[1] != theirs_now[1]).any())
        )

    def restore(self) -> None:
        """Sets the generators back."""
        python, ours, theirs = self._states
        random.setstate(python)
        torch.set_rng_state(ours)
        if self._numpy is not None:
            self._numpy.set_state(theirs)

    def _read(self) -> tuple:
        theirs = None if self._numpy is None else self._numpy.get_state()
        return random.getstate(), torch.get_rng_state(), theirs


@contextlib.contextmanager
def loaded_dice(seed: int) -> Iterator[None]:
    """Lets everything inside draw the same numbers every time; restores the generators."""
    with dice_as_they_were():
        random.seed(seed)
        torch.manual_seed(seed)
        numpy = sys.modules.get("numpy")
        if numpy is not None:
            numpy.random.seed(seed)
        yield


@contextlib.contextmanager
def dice_as_they_were() -> Iterator[Dice]:
    """Restores the generators at the end."""
    dice = Dice()
    try:
        yield dice
    finally:
        dice.restore()
