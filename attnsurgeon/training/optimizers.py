"""Optimiser of a network -> the same optimiser, of the network that was made of it."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from attnsurgeon.errors import UsageError
from attnsurgeon.given import takes_networks
from attnsurgeon.training.groups import not_decayed
from attnsurgeon.training.new_parts import every_parameter
from attnsurgeon.training.places import places
from attnsurgeon.training.renames import renamed


@takes_networks()
def update_optimizer(
    optimizer: torch.optim.Optimizer, model: nn.Module, *, before: nn.Module | None = None
) -> tuple[str, ...]:
    """Let an optimizer that exists go on with a network that was operated since, in place.

    What it knows of parameters that are still there (moments, steps) is kept. Trainable parameters
    that it does not hold are added to the groups of their places, of those that are decayed like
    them, so that rates, schedulers and the number of groups stay as they are. A group in the order
    of the network stays in it: torch saves states by their numbers, and those of an optimizer that
    a resumed run makes of the operated network are then the same. Frozen parameters lose their
    gradients. What belongs to neither network (of a loss) is left alone.

    Called again after `unfreeze`, or after a classifier was replaced, it adds what is new then.

    Args:
        optimizer: any of torch, or one that holds `param_groups` and `state` like them.
        model: the operated network.
        before: the network that the optimizer was made with, where the operation made a copy, as
            `insert` does. Its parameters are replaced by those of the same names, and dropped
            where the name or the shape is gone. Either may be wrapped (`torch.compile`, DDP, a
            task around it): then names are those in the network inside.

    Returns:
        The names of the parameters that were added.

    Raises:
        UsageError: the optimizer holds no parameter of the network, `before` has none of the same
            name, or the state is kept for all parameters together (LBFGS).
    """
    if isinstance(optimizer, torch.optim.LBFGS):
        raise UsageError(
            "LBFGS keeps one state for all its parameters, which another set would not fit",
            "make a new optimizer",
        )
    here = {id(parameter) for parameter in model.parameters()}
    was = {} if before is None else renamed(before, model)
    if not any(id(p) in here or id(p) in was for g in optimizer.param_groups for p in g["params"]):
        raise UsageError(
            "the optimizer holds no parameter of this network",
            "before=NETWORK, the one it was made with: insert() operates a copy",
        )
    numbers = _numbers(model if before is None else before)
    in_order = [group for group in optimizer.param_groups if _is_in_order(group, numbers)]
    homes = _exchange(optimizer, model, was, here)
    added = _add(optimizer, model, homes)
    for group in in_order:
        _put_in_order(group, _numbers(model))
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if not parameter.requires_grad:
                parameter.grad = None
    return added


def _exchange(
    optimizer: torch.optim.Optimizer,
    model: nn.Module,
    was: dict[int, list[str]],
    here: set[int],
) -> dict[str, dict[str, Any]]:
    """Put parameters in the places of those of before; returns name -> group of those dropped."""
    now = dict(every_parameter(model))
    dropped: dict[str, dict[str, Any]] = {}
    held: set[int] = set()
    for group in optimizer.param_groups:
        titles = group.get("param_names")  # where the optimizer was made with names
        kept: list[tuple[nn.Parameter, Any]] = []
        for at, parameter in enumerate(group["params"]):
            names = [] if id(parameter) in here else was.get(id(parameter), [])
            same = [now[n] for n in names if n in now and now[n].shape == parameter.shape]
            target = same[0] if same else parameter
            if names and not same:
                dropped |= dict.fromkeys(names, group)
                optimizer.state.pop(parameter, None)
                continue
            if target is not parameter and parameter in optimizer.state:
                optimizer.state[target] = optimizer.state.pop(parameter)
            if id(target) not in held:
                held.add(id(target))
                kept.append((target, titles[at] if titles else None))
        group["params"][:] = [parameter for parameter, _ in kept]
        if titles:
            titles[:] = [title for _, title in kept]
    return dropped


def _add(
    optimizer: torch.optim.Optimizer, model: nn.Module, homes: dict[str, dict[str, Any]]
) -> tuple[str, ...]:
    """Add what is trainable and not held, each to the group it belongs to."""
    group_of = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    undecayed = not_decayed(model)
    named = dict(model.named_parameters())
    order = {name: at for at, name in enumerate(named)}
    near = places(model)
    held = [(at, p) for at, p in enumerate(named.values()) if id(p) in group_of]
    added: list[str] = []
    for at, (name, parameter) in enumerate(named.items()):
        if not parameter.requires_grad or id(parameter) in group_of:
            continue
        if name not in homes:
            stands = max((order[n] for n in near.get(name, ())), default=at)
            plain = id(parameter) in undecayed
            alike = [(i, p) for i, p in held if (id(p) in undecayed) == plain] or held
            # The last that stands before it, else the first behind it.
            ahead = [p for i, p in alike if i <= stands]
            _, follower = alike[0] if alike else (0, None)
            neighbour = ahead[-1] if ahead else follower
            homes[name] = group_of[id(neighbour)] if held else optimizer.param_groups[0]
        group = homes[name]
        group["params"].append(parameter)
        if "param_names" in group:
            group["param_names"].append(name)
        added.append(name)
    return tuple(added)


def _is_in_order(group: dict[str, Any], numbers: dict[int, int]) -> bool:
    found = [numbers.get(id(parameter), -1) for parameter in group["params"]]
    return min(found, default=0) >= 0 and found == sorted(found)


def _put_in_order(group: dict[str, Any], numbers: dict[int, int]) -> None:
    params = group["params"]
    order = sorted(range(len(params)), key=lambda at: numbers[id(params[at])])
    for named in (params, group.get("param_names", [])):
        named[:] = [named[at] for at in order if named]


def _numbers(model: nn.Module) -> dict[int, int]:
    return {id(parameter): number for number, parameter in enumerate(model.parameters())}
