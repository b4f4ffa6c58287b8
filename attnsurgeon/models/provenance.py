"""A network and where it came from: the note `load_model` leaves on what it builds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from attnsurgeon.shown import brief

_NOTE = "_attnsurgeon_source"


@dataclass(frozen=True, repr=False)
class Source:
    """How to build a network again, and which weights it was given.

    Attributes:
        spec: as handed to `load_model`, `resnet50` or `nets/mine.py:make`.
        model_args: the arguments handed to the network's factory.
        weights: `random`; `pretrained`; `checkpoint NAME`; `none` on the meta device; `as built`
            where only the code that built the network can say.
        stripped: what was unwrapped from a checkpoint, outermost first: `state_dict`, `module.`.
        notes: every liberty that was taken with a checkpoint, in words; not written to folders.
        new: names of the tensors that no weights were found for, and that stay as they were built;
            not written to folders.
    """

    spec: str
    model_args: Mapping[str, Any] = field(default_factory=dict)
    weights: str = "random"
    stripped: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=(), compare=False)
    new: tuple[str, ...] = field(default=(), compare=False)

    def __repr__(self) -> str:
        args = ", ".join(f"{name}={value!r}" for name, value in self.model_args.items())
        return brief(self, f"{self.spec}({args}), weights: {self.weights}")


def stamp(model: nn.Module, source: Source) -> nn.Module:
    """Write `source` on the model as a plain attribute and return the model.

    Neither parameter nor buffer: no state-dict key is added, and deepcopy and pickle carry it.
    """
    # Past nn.Module.__setattr__, which a user's class may have replaced.
    model.__dict__[_NOTE] = source
    return model


def source_of(model: nn.Module) -> Source | None:
    """Return where `load_model` built this network from; None if it did not."""
    return model.__dict__.get(_NOTE)


def note_on(model: nn.Module, notes: tuple[str, ...]) -> None:
    """Add to the notes of a network that knows where it came from."""
    source = source_of(model)
    if source is not None:
        stamp(model, replace(source, notes=(*source.notes, *notes)))
