"""A checkpoint that does not fit a network -> which names do not, and what to do about it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from attnsurgeon.errors import ModelError
from attnsurgeon.models.finding import Found, shape_of, shown

Shape = tuple[int, ...] | None
Kin = Callable[[Mapping[str, Any]], str | None]
_ATTENTION = re.compile(r"(.*?\battn(?:_\d+)?)\.")  # the names that surgery gives


@dataclass(frozen=True)
class Misfit:
    """What does not fit.

    Attributes:
        model: the network.
        found: what was taken for its weights.
        missing: the network's names that are not there.
        unexpected: names that are none of the network's, inside of its modules.
        misshapen: names of another shape: the checkpoint's, the network's.
        untaken: names that the network's own `load_state_dict` did not take.
        named: names of classes that the checkpoint has, of a YOLO.
        kin: finds the registered network whose weights these are.
    """

    model: nn.Module
    found: Found
    missing: Sequence[str] = ()
    unexpected: Sequence[str] = ()
    misshapen: Mapping[str, tuple[Shape, Shape]] = field(default_factory=dict)
    untaken: Sequence[str] = ()
    named: Any = None
    kin: Kin | None = None


def explained(misfit: Misfit, name: str, what: str) -> ModelError:
    """Return the error: counts, the first names of each kind, and a hint in both languages.

    Args:
        misfit: what does not fit.
        name: of the file.
        what: the network's name.
    """
    counts = (
        f"{len(misfit.missing)} of its keys missing, {len(misfit.unexpected)} unexpected,"
        f" {len(misfit.misshapen)} of another shape"
    )
    counts += (
        f", {len(misfit.untaken)} not taken by its own load_state_dict" if misfit.untaken else ""
    )
    shapes = [
        f"{shown(key)} {theirs or 'no tensor'}, here {ours}"
        for key, (theirs, ours) in misfit.misshapen.items()
    ]
    lists = {
        "missing": list(map(shown, misfit.missing)),
        "unexpected": list(map(shown, misfit.unexpected)),
        "another shape": shapes,
        "not taken": list(map(shown, misfit.untaken)),
    }
    lines = [_first(title, keys) for title, keys in lists.items() if keys]
    hint, command = _hint(misfit, name)
    first = f"{name} does not fit {what}: {counts}"
    return ModelError("\n  ".join([first, *lines]), hint, command=command)


def _first(title: str, keys: list[str], at_most: int = 5) -> str:
    more = len(keys) - at_most
    shown_keys = "; ".join(keys[:at_most])
    return f"{title}: {shown_keys}{f'; and {more} more' if more > 0 else ''}"


def _hint(misfit: Misfit, name: str) -> tuple[str, str]:
    """What to do, in Python and on the command line."""
    if not any(key in misfit.found.state for key in misfit.model.state_dict()):
        said = "none of the keys is the network's: this is a checkpoint of another architecture"
        return said, said
    if places := _attention(misfit):
        return after_surgery(places, name)
    if arguments := _arguments(misfit):
        given = ", ".join(f"{key}={value}" for key, value in arguments.items())
        options = " ".join(f"--model-arg {key}={value}" for key, value in arguments.items())
        said = "build the network as the checkpoint's was: "
        keep, option = "", ""
        if "num_classes" in arguments:
            keep, option = "; or keep your classes with a head that starts anew: ", "--new-head"
        return (
            f"{said}load_model(..., {given}){keep}{'new_head=True' if keep else ''}",
            f"{said}{options}{keep}{option}",
        )
    if misfit.kin is not None and (kin := misfit.kin(misfit.found.state)) is not None:
        said = f"these are the weights of {kin}: "
        return (
            f"{said}load_model({kin!r}, checkpoint={name!r})",
            f"{said}name {kin} in place of the network, with --checkpoint {name}",
        )
    said = (
        "build the network with the model arguments it was trained with, or name the network that"
        " this checkpoint is of; what fits alone is taken with "
    )
    return f"{said}partial=True", f"{said}--partial"


def after_surgery(places: Sequence[str], name: str) -> tuple[str, str]:
    """Return the hint for a file with attention in it, in Python and on the command line.

    Args:
        places: the paths of the attention.
        name: of the file.
    """
    some = ", ".join(map(shown, places[:2])) + (" …" if len(places) > 2 else "")
    said = (
        f"it was saved after surgery, with attention at {len(places)} places ({some}), and goes"
        " into the folder that surgery wrote: "
    )
    return (
        f"{said}attnsurgeon.load(DIR, checkpoint={name!r})",
        f"{said}attnsurgeon verify DIR --checkpoint {name}",
    )


def _attention(misfit: Misfit) -> list[str]:
    """The modules that surgery put in, where they and what they replaced are all that differs."""
    own = dict(misfit.model.named_modules())
    found = [_ATTENTION.match(key) for key in misfit.unexpected]
    paths = dict.fromkeys(match[1] for match in found if match)
    hosts = all(path.rpartition(".")[0] in own and path not in own for path in paths)
    return list(paths) if paths and all(found) and hosts else []


def _arguments(misfit: Misfit) -> dict[str, int]:
    """The arguments of the network that would make it the checkpoint's."""
    stems = _input_channels(misfit.misshapen)
    others = [pair for key, pair in misfit.misshapen.items() if key not in stems]
    unexpected = [shape_of(misfit.found.state.get(key)) for key in misfit.unexpected]
    classes = _classes(misfit.model, others, unexpected)
    named = misfit.named
    if isinstance(named, dict) and len(named) != len(getattr(misfit.model, "names", named)):
        classes = len(named)  # a YOLO knows its classes by name
    arguments = {"num_classes": classes} if classes else {}
    if len(stems) == 1:
        arguments["in_chans"] = next(iter(stems.values()))
    return arguments


def _classes(
    model: nn.Module, misshapen: list[tuple[Shape, Shape]], unexpected: list[Shape]
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


def _input_channels(misshapen: Mapping[str, tuple[Shape, Shape]]) -> dict[str, int]:
    """The convolutions that differ in their input channels alone, with the checkpoint's."""
    return {
        key: theirs[1]
        for key, (theirs, ours) in misshapen.items()
        if theirs and ours and len(theirs) == len(ours) >= 4
        if (theirs[0], theirs[2:]) == (ours[0], ours[2:])
    }
