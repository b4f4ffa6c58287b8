"""Operated network -> the groups in which an optimiser trains its parameters, and how fast."""

from __future__ import annotations

import fnmatch
import math
from typing import Any

from torch import nn

from attnsurgeon.errors import UsageError
from attnsurgeon.given import takes_networks
from attnsurgeon.models.layering import undecayed_by_name
from attnsurgeon.training.layer_depth import layers_of
from attnsurgeon.training.new_parts import NewParts, every_parameter


@takes_networks()
def param_groups(
    model: nn.Module,
    lr: float,
    *,
    new_lr: float | None = None,
    weight_decay: float = 0.0,
    layer_decay: float | None = None,
) -> Groups:
    """Group an operated network's trainable parameters for any torch optimiser.

    Every trainable parameter is in exactly one group, a shared one too; frozen ones are in none.
    What the network had before is grouped as timm groups it (`param_groups_weight_decay`,
    `param_groups_layer_decay`): parameters of one axis, biases, and what `no_weight_decay()` names
    are not decayed. Of the attention, neither are gates and scales of any number of axes.

    Args:
        model: the operated network, or one around it.
        lr: learning rate of the base network.
        new_lr: learning rate of what is new, the attention and a new classifier; default: `lr`.
            A higher one is common for new layers; on pretrained weights up to ten times gained
            nothing, and at 1e-2 gates saturated within some steps (docs/evidence.md).
        weight_decay: of everything that is decayed.
        layer_decay: factor by which learning rates fall with every layer towards the input, of
            which the last has `lr`, or `new_lr`; layers that are frozen count as well. Attention
            is in the layer of its place.

    Returns:
        Groups with the keys `params`, `lr`, `weight_decay` and `name`: `base` and `new` or, with
        `layer_decay`, `base.0`, `base.1`, ..., `new.0`, ... by the layers from the input on; and
        the same names with `.no_decay`. Printed, they are a table of names, rates and sizes.

    Raises:
        UsageError: there is no inserted attention, nothing is trainable, or a value is no rate.
        ModelError: with `layer_decay`, the order of the layers cannot be found.
    """
    _check_rates(lr=lr, weight_decay=weight_decay)
    new_lr = lr if new_lr is None else new_lr
    _check_rates(new_lr=new_lr)
    if layer_decay is not None and not 0 < layer_decay <= 1:
        raise UsageError(f"layer_decay={layer_decay!r} is not in (0, 1]", "0.75 is common")
    new = NewParts.of(model).parameters(model)
    trainable = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    if not trainable:
        raise UsageError("no parameter is trainable", "attnsurgeon.unfreeze(model)")
    layers = {} if layer_decay is None else layers_of(model)
    last = max(layers.values(), default=0)
    undecayed = not_decayed(model)
    groups: dict[tuple[bool, int, bool], dict[str, Any]] = {}
    for name, parameter in trainable:
        is_new, layer = id(parameter) in new, layers.get(name, 0)
        plain = id(parameter) in undecayed
        place = is_new, layer, plain
        if place not in groups:
            parts = ("new" if is_new else "base", *([layer] if layers else []))
            groups[place] = {
                "params": [],
                "lr": (new_lr if is_new else lr) * (layer_decay or 1.0) ** (last - layer),
                "weight_decay": 0.0 if plain else weight_decay,
                "name": ".".join(map(str, (*parts, *(["no_decay"] if plain else [])))),
            }
        groups[place]["params"].append(parameter)
    return Groups(groups[place] for place in sorted(groups))


class Groups(list[dict[str, Any]]):
    """Parameter groups as torch's optimisers take them, that print as a table."""

    def __repr__(self) -> str:
        rows = [("group", "lr", "weight decay", "tensors", "parameters")]
        for group in self:
            size = sum(parameter.numel() for parameter in group["params"])
            rates = (f"{group['lr']:g}", f"{group['weight_decay']:g}")
            rows.append((group["name"], *rates, f"{len(group['params']):,}", f"{size:,}"))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join(
            "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])])
            for row in rows
        )

    __str__ = __repr__


def not_decayed(model: nn.Module) -> set[int]:
    """Return the ids of the parameters of a network that weight decay leaves out.

    Of what it had before by timm's rule; of what is new, gates and scales as well.
    """
    new = NewParts.of(model).parameters(model)
    patterns = undecayed_by_name(model)
    weights = {
        id(module.weight)
        for module in model.modules()
        if isinstance(module, (nn.Linear, nn.modules.conv._ConvNd))
    }
    found: set[int] = set()
    for name, parameter in every_parameter(model):
        # One number an axis at most: a gate, a scale of a map.
        vector = sum(size > 1 for size in parameter.shape) <= 1 and id(parameter) not in weights
        if (
            parameter.dim() <= 1
            or name.endswith(".bias")
            or any(fnmatch.fnmatch(name, pattern) for pattern in patterns)
            or getattr(parameter, "no_weight_decay", False)
            or (vector and id(parameter) in new)
        ):
            found.add(id(parameter))
    return found


def _check_rates(**rates: float) -> None:
    for name, rate in rates.items():
        if not isinstance(rate, (int, float)) or not math.isfinite(rate) or rate < 0:
            raise UsageError(f"{name}={rate!r} is not a rate", "give a number of at least 0")
