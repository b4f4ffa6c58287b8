"""Operated network -> what an optimiser trains, and how fast: attention first, then all of it.

Two phases are usual: freeze the backbone and train the attention, then unfreeze and train all of
it, slower.

    attnsurgeon.freeze_backbone(model)
    ...                                            # some epochs on the attention alone
    attnsurgeon.unfreeze(model)
    optimizer = torch.optim.AdamW(attnsurgeon.param_groups(model, 1e-4, weight_decay=0.05))
"""

from __future__ import annotations

import fnmatch
import functools
import math
from collections.abc import Iterator
from typing import Any

from torch import nn

from attnsurgeon.errors import UsageError
from attnsurgeon.saved.origin import attention_prefixes
from attnsurgeon.splicing.history import inserted
from attnsurgeon.training.layer_depth import layers_of

# What Caffe's fine-tuning example gives a new layer (lr_mult 10 against 1), and many after it.
NEW_LR_FACTOR = 10.0
_NOTE = "_attnsurgeon_frozen"  # attribute of the network: the names of what was frozen


def freeze_backbone(model: nn.Module) -> None:
    """Leave only the inserted attention trainable, in place.

    The backbone's parameters stop requiring gradients, and its norms with running statistics stay
    in evaluation mode, whatever `model.train()` says: they normalise by the statistics that the
    backbone was trained with and do not touch them, so that training leaves every value of the
    backbone as it was. Dropout and drop-path keep following `model.train()`.

    Modules, their classes and the state-dict keys stay the same; copies and pickles stay frozen.
    Tools that replace norms by others (SyncBatchNorm conversion) need to come before.

    Raises:
        UsageError: the network has no inserted attention.
    """
    new = _attention(model)
    own = {id(p) for name, p in _parameters(model) if name.startswith(new)}
    frozen = list(model.__dict__.get(_NOTE, ()))
    for name, parameter in model.named_parameters():
        if id(parameter) not in own and parameter.requires_grad:
            parameter.requires_grad_(False)
            frozen.append(name)
    model.__dict__[_NOTE] = tuple(frozen)
    for path, module in model.named_modules():
        if f"{path}.".startswith(new) or not _keeps_statistics(module):
            continue
        if "train" not in module.__dict__:
            module.__dict__["train"] = functools.partial(_stay_in_evaluation, module)
        module.training = False


def unfreeze(model: nn.Module) -> None:
    """Make trainable again what `freeze_backbone` froze, in place.

    Parameters that did not require gradients before that (fixed position embeddings) still do
    not. The norms return to the mode of the network.

    Raises:
        UsageError: the network has no inserted attention, and nothing of it was frozen.
    """
    if _NOTE not in model.__dict__:
        _attention(model)
    frozen = set(model.__dict__.pop(_NOTE, ()))
    for name, parameter in _parameters(model):
        if name in frozen:
            parameter.requires_grad_(True)
    for module in model.modules():
        if _is_held(module):
            del module.__dict__["train"]
            module.training = model.training


def param_groups(
    model: nn.Module,
    lr: float,
    *,
    new_lr: float | None = None,
    weight_decay: float = 0.0,
    layer_decay: float | None = None,
) -> list[dict[str, Any]]:
    """Group an operated network's trainable parameters for any torch optimiser.

    Every trainable parameter is in exactly one group; frozen ones are in none. Biases, the scales
    of norms and layers, gates and whatever `model.no_weight_decay()` names are not decayed.

    Args:
        model: the operated network.
        lr: learning rate of the base network.
        new_lr: learning rate of the attention; default 10 * lr.
        weight_decay: of everything that is decayed.
        layer_decay: factor by which the base network's learning rate falls with every layer
            towards the input, counted over trainable layers, so that the last of them has `lr`.
            The attention has `new_lr` at every depth.

    Returns:
        Groups with the keys `params`, `lr`, `weight_decay` and `name`: `base` or, with
        `layer_decay`, `base.0`, `base.1`, ... from the input on, and `new`; and the same names
        with `.no_decay`.

    Raises:
        UsageError: there is no inserted attention, nothing is trainable, or a value is no rate.
        ModelError: with `layer_decay`, the order of the layers cannot be found.
    """
    _check_rates(lr=lr, weight_decay=weight_decay)
    new_lr = NEW_LR_FACTOR * lr if new_lr is None else new_lr
    _check_rates(new_lr=new_lr)
    if layer_decay is not None and not 0 < layer_decay <= 1:
        raise UsageError(f"layer_decay={layer_decay!r} is not in (0, 1]", "0.75 is common")
    new = _attention(model)
    trainable = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    if not trainable:
        raise UsageError("no parameter is trainable", "attnsurgeon.unfreeze(model)")
    rates = _base_rates([n for n, _ in trainable if not n.startswith(new)], model, lr, layer_decay)
    undecayed = _not_decayed(model)
    groups: dict[str, dict[str, Any]] = {}
    for name, parameter in trainable:
        title, rate = ("new", new_lr) if name.startswith(new) else rates[name]
        decay = weight_decay
        if id(parameter) in undecayed:
            title, decay = f"{title}.no_decay", 0.0
        group = {"params": [], "lr": rate, "weight_decay": decay, "name": title}
        groups.setdefault(title, group)["params"].append(parameter)
    return sorted(groups.values(), key=_place)


def _base_rates(
    names: list[str], model: nn.Module, lr: float, layer_decay: float | None
) -> dict[str, tuple[str, float]]:
    """Name -> title of its group and its learning rate."""
    if layer_decay is None or not names:
        return dict.fromkeys(names, ("base", lr))
    layers = layers_of(model)
    # Frozen layers do not count: the deepest layer that learns has to learn at the full rate.
    ranks = {layer: i for i, layer in enumerate(sorted({layers[name] for name in names}))}
    top = len(ranks) - 1
    return {
        name: (f"base.{ranks[layers[name]]}", lr * layer_decay ** (top - ranks[layers[name]]))
        for name in names
    }


def _place(group: dict[str, Any]) -> tuple[bool, int, bool]:
    """Base from the input on, then the attention; what is not decayed after what is."""
    parts = group["name"].split(".")
    return (
        parts[0] == "new",
        int(parts[1]) if parts[1:2] and parts[1].isdigit() else 0,
        (parts[-1] == "no_decay"),
    )


def _not_decayed(model: nn.Module) -> set[int]:
    """Ids of biases, scales and gates, and of what the network says itself."""
    listed = getattr(model, "no_weight_decay", None)  # timm's way to say it, a method
    patterns: Any = listed() if callable(listed) else ()
    found: set[int] = set()
    for path, module in model.named_modules():
        weighs = isinstance(module, (nn.Linear, nn.modules.conv._ConvNd))
        for leaf, parameter in module.named_parameters(recurse=False):
            name = f"{path}.{leaf}" if path else leaf
            # One number an axis at most: a bias, a norm's scale, a gate, a layer's scale.
            vector = sum(size > 1 for size in parameter.shape) <= 1
            vector = vector and not (weighs and leaf == "weight")
            named = any(fnmatch.fnmatch(name, pattern) for pattern in patterns)
            marked = getattr(parameter, "no_weight_decay", False)
            if vector or leaf == "bias" or named or marked:
                found.add(id(parameter))
    return found


def _attention(model: nn.Module) -> tuple[str, ...]:
    if not any(inserted(model)):
        raise UsageError(
            "the network has no inserted attention", "attnsurgeon.insert(model, ...).model has"
        )
    return attention_prefixes(model)


def _parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    return model.named_parameters(remove_duplicate=False)


def _keeps_statistics(module: nn.Module) -> bool:
    """Whether a module itself gathers statistics while it trains, as batch norms do."""
    return any(
        buffer is not None and name.startswith("running_")
        for name, buffer in module._buffers.items()
    )


def _stay_in_evaluation(module: nn.Module, mode: bool = True) -> nn.Module:
    """Take the place of a frozen norm's `train`; only what is inside it follows the mode."""
    type(module).train(module, mode)
    module.training = False
    return module


def _is_held(module: nn.Module) -> bool:
    return getattr(module.__dict__.get("train"), "func", None) is _stay_in_evaluation


def _check_rates(**rates: float) -> None:
    for name, rate in rates.items():
        if not isinstance(rate, (int, float)) or not math.isfinite(rate) or rate < 0:
            raise UsageError(f"{name}={rate!r} is not a rate", "give a number of at least 0")
