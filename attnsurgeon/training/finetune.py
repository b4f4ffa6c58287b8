"""Operated network -> what an optimiser trains, and how fast: what is new first, then all of it.

Two phases are usual: freeze the backbone and train the attention, then unfreeze and train all of
it, slower. Each phase has its own optimiser: one holds the parameters that it was made with.

    attnsurgeon.freeze_backbone(model)
    optimizer = torch.optim.AdamW(attnsurgeon.param_groups(model, lr=1e-3))
    ...                                            # some epochs on what is new
    attnsurgeon.unfreeze(model)
    optimizer = torch.optim.AdamW(attnsurgeon.param_groups(model, lr=1e-4, new_lr=1e-3))
    ...                                            # and on all of it
"""

from __future__ import annotations

import fnmatch
import functools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from torch import nn

from attnsurgeon.errors import UsageError, nearest
from attnsurgeon.models import left_random
from attnsurgeon.saved.origin import attention_prefixes
from attnsurgeon.splicing.history import added, inserted
from attnsurgeon.training.layer_depth import layers_of

_NOTE = "_attnsurgeon_frozen"  # attribute of the network: the names of what was frozen


def freeze_backbone(model: nn.Module, *, keep: str | Iterable[str] = ()) -> None:
    """Leave only what is new trainable, in place: the inserted attention, and a new classifier.

    The backbone's parameters stop requiring gradients, and its norms with running statistics stay
    in evaluation mode, whatever `model.train()` says: they normalise by the statistics that the
    backbone was trained with and do not touch them, so that training leaves every value of the
    backbone as it was. Dropout and drop-path keep following `model.train()`.

    A classifier is new if it replaced another one after the operation (`reset_classifier(10)`,
    `model.fc = ...`), or if `load_model(..., pretrained=True, num_classes=10)` found no weights for
    it: attention that trains against a random classifier that stands still learns its noise. What
    has kept its name and shape is not known to be new; `keep` names it.

    Modules, their classes and the state-dict keys stay the same; copies and pickles stay frozen.
    Tools that replace norms by others (SyncBatchNorm conversion) need to come before.

    Args:
        model: the operated network.
        keep: what else stays trainable: paths of modules, names of parameters, or patterns of
            these, such as `"fc"` or `["layer4.*", "fc"]`.

    Raises:
        UsageError: the network has no inserted attention, or nothing of it is called that.
    """
    new = _New.of(model, (keep,) if isinstance(keep, str) else tuple(keep))
    own = {id(p) for name, p in _parameters(model) if name in new}
    frozen = list(model.__dict__.get(_NOTE, ()))
    for name, parameter in model.named_parameters():
        if id(parameter) in own:
            if name in frozen:  # by an earlier call, that kept less
                parameter.requires_grad_(True)
                frozen.remove(name)
        elif parameter.requires_grad:
            parameter.requires_grad_(False)
            frozen.append(name)
    model.__dict__[_NOTE] = tuple(frozen)
    for path, module in model.named_modules():
        statistics = [f"{path}.{name}" if path else name for name in _statistics(module)]
        if not statistics:
            continue
        if any(name in new for name in statistics):
            _release(module, model.training)
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
        _release(module, model.training)


def param_groups(
    model: nn.Module,
    lr: float,
    *,
    new_lr: float | None = None,
    weight_decay: float = 0.0,
    layer_decay: float | None = None,
) -> Groups:
    """Group an operated network's trainable parameters for any torch optimiser.

    Every trainable parameter is in exactly one group; frozen ones are in none. Biases, the scales
    of norms and layers, gates and whatever `model.no_weight_decay()` names are not decayed.

    Args:
        model: the operated network.
        lr: learning rate of the base network.
        new_lr: learning rate of what is new, the attention and a new classifier; default: `lr`.
            A higher one is common for new layers; on pretrained weights up to ten times gained
            nothing, and at 1e-2 gates saturated within some steps (docs/evidence.md).
        weight_decay: of everything that is decayed.
        layer_decay: factor by which the base network's learning rate falls with every layer
            towards the input, counted over trainable layers, so that the last of them has `lr`.
            What is new has `new_lr` at every depth.

    Returns:
        Groups with the keys `params`, `lr`, `weight_decay` and `name`: `base` or, with
        `layer_decay`, `base.0`, `base.1`, ... from the input on, and `new`; and the same names
        with `.no_decay`. Printed, they are a table of names, rates and sizes.

    Raises:
        UsageError: there is no inserted attention, nothing is trainable, or a value is no rate.
        ModelError: with `layer_decay`, the order of the layers cannot be found.
    """
    _check_rates(lr=lr, weight_decay=weight_decay)
    new_lr = lr if new_lr is None else new_lr
    _check_rates(new_lr=new_lr)
    if layer_decay is not None and not 0 < layer_decay <= 1:
        raise UsageError(f"layer_decay={layer_decay!r} is not in (0, 1]", "0.75 is common")
    new = _New.of(model)
    trainable = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    if not trainable:
        raise UsageError("no parameter is trainable", "attnsurgeon.unfreeze(model)")
    rates = _base_rates([n for n, _ in trainable if n not in new], model, lr, layer_decay)
    undecayed = _not_decayed(model)
    groups: dict[str, dict[str, Any]] = {}
    for name, parameter in trainable:
        title, rate = ("new", new_lr) if name in new else rates[name]
        decay = weight_decay
        if id(parameter) in undecayed:
            title, decay = f"{title}.no_decay", 0.0
        group = {"params": [], "lr": rate, "weight_decay": decay, "name": title}
        groups.setdefault(title, group)["params"].append(parameter)
    return Groups(sorted(groups.values(), key=_place))


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


@dataclass(frozen=True)
class _New:
    """Which names are new, as far as the network can tell, or are to be taken for that."""

    attention: tuple[str, ...]
    others: frozenset[str]
    heads: tuple[str, ...]

    @classmethod
    def of(cls, model: nn.Module, keep: tuple[str, ...] = ()) -> _New:
        attention = _attention(model)
        names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
        paths = [path for path, _ in model.named_modules(remove_duplicate=False) if path]
        for pattern in keep:
            if not any(fnmatch.fnmatchcase(name, pattern) for name in (*names, *paths)):
                raise UsageError(
                    f"keep={pattern!r} is no module or parameter of this network",
                    nearest(pattern, [*paths, *names]),
                )
        return cls(attention, added(model), (*left_random(model), *keep))

    def __contains__(self, name: str) -> bool:
        owners = (*accumulate(name.split("."), "{}.{}".format),)
        return (
            name.startswith(self.attention)
            or name in self.others
            or any(fnmatch.fnmatchcase(owner, head) for head in self.heads for owner in owners)
        )


def _attention(model: nn.Module) -> tuple[str, ...]:
    if not any(inserted(model)):
        raise UsageError(
            "the network has no inserted attention", "attnsurgeon.insert(model, ...).model has"
        )
    return attention_prefixes(model)


def _parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    return model.named_parameters(remove_duplicate=False)


def _statistics(module: nn.Module) -> list[str]:
    """The buffers in which a module itself gathers statistics while it trains, as norms do."""
    return [
        name
        for name, buffer in module._buffers.items()
        if buffer is not None and name.startswith("running_")
    ]


def _release(module: nn.Module, mode: bool) -> None:
    """Let a norm that was held in evaluation mode follow the network's mode again."""
    if getattr(module.__dict__.get("train"), "func", None) is _stay_in_evaluation:
        del module.__dict__["train"]
        module.training = mode


def _stay_in_evaluation(module: nn.Module, mode: bool = True) -> nn.Module:
    """Take the place of a frozen norm's `train`; only what is inside it follows the mode."""
    type(module).train(module, mode)
    module.training = False
    return module


def _check_rates(**rates: float) -> None:
    for name, rate in rates.items():
        if not isinstance(rate, (int, float)) or not math.isfinite(rate) or rate < 0:
            raise UsageError(f"{name}={rate!r} is not a rate", "give a number of at least 0")
