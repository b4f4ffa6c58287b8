"""A network and its class argument -> its head: what would be another one with other classes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from attnsurgeon.errors import ModelError
from attnsurgeon.models.finding import shape_of
from attnsurgeon.models.provenance import source_of

# What libraries and people call the number of classes.
CLASSES = ("num_classes", "num_labels", "nc", "classes", "n_classes", "num_class")
_TRIED = (7, 13)  # numbers of classes that few networks have


def head_of(
    model: nn.Module, model_args: Mapping[str, Any], build: Callable[..., nn.Module], what: str
) -> tuple[str, ...]:
    """Find the tensors of a network that depend on its number of classes.

    The network is built once more without numbers, for another number of classes, and compared: no
    name and no place is taken for a classifier's, and of several heads all are found.

    Args:
        model: as built; only its names and shapes are looked at.
        model_args: as it was built with.
        build: makes the network of such arguments, without numbers.
        what: the network's name in messages.

    Raises:
        ModelError: none of its arguments is a number of classes, or it has no head.
    """
    own = _shapes(model)
    for argument in sorted(CLASSES, key=lambda name: name not in model_args):
        for classes in _TRIED:
            try:
                other = _shapes(build(**{**model_args, argument: classes}))
            except ModelError:  # not an argument of this network
                break
            head = tuple(name for name, shape in own.items() if other.get(name) != shape)
            if head:
                return head
    raise ModelError(
        f"{what} has no head that could be new: no argument for its number of classes"
        f" ({', '.join(CLASSES[:3])}, ...) changes the shape of any of its tensors",
        "take what fits, and read what stays random: partial=True",
        command="take what fits, and read what stays random: --partial",
    )


def without_classes(model_args: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of the network whose head the published weights have."""
    return {name: value for name, value in model_args.items() if name not in CLASSES}


def left_random(model: nn.Module) -> tuple[str, ...]:
    """Return the tensors, or the modules, that `load_model` found no weights for.

    timm drops a classifier's weights, without a word, where they are for another number of
    classes than was asked for. Everything else that names a network refuses to build that.
    """
    source = source_of(model)
    if source is None:
        return ()
    published: Any = getattr(model, "pretrained_cfg", None)
    if source.weights != "pretrained" or not isinstance(published, Mapping):
        return source.new
    if published.get("num_classes") == getattr(model, "num_classes", None):
        return source.new
    named = published.get("classifier") or ()
    return (*source.new, *((named,) if isinstance(named, str) else tuple(named)))


def _shapes(model: nn.Module) -> dict[str, Any]:
    return {name: shape_of(value) for name, value in model.state_dict().items()}
