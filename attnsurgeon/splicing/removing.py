"""Operated network -> the network that it was: all attention out again, or that of one plan."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from attnsurgeon.attention.heads.tapped import InputTap, OutputTap, Tapped
from attnsurgeon.errors import ModelError
from attnsurgeon.forwards.retype import restored
from attnsurgeon.planning.plan import Plan
from attnsurgeon.recording.ambient import known_state
from attnsurgeon.recording.record import MARK
from attnsurgeon.splicing.channels_first import InputHook, OutputHook
from attnsurgeon.splicing.history import STRIPPED, history, remember
from attnsurgeon.splicing.scripting import answer_script

Removed = dict[str, dict[str, dict[str, Any]]]  # path -> "_parameters", "_buffers" -> by name


def undo(model: nn.Module, plan: Plan, removed: Removed | None = None) -> nn.Module:
    """Takes one plan's attention out again, in place; returns the network it was planned for.

    Attention of earlier operations stays. Plans are undone in the reverse order of their making.

    Args:
        model: the operated network.
        plan: what was carried out on it.
        removed: what `splice` returned; without it, what is gone comes back with random values.
    """
    twin = plan.survey.traced.twin
    for cut in plan.cuts:
        for path in (cut.place.host, *cut.removes):
            module = model.get_submodule(path)
            module.__class__ = type(twin.get_submodule(path))
            _put_back(module, None if removed is None else removed.get(path))
        host = model.get_submodule(cut.place.host)
        _drop_hooks(host, lambda hook, name=cut.name: hook.name == name)
        _drop_taps(model, host._modules.pop(cut.name, None))
    remember(model, history(model)[:-1])
    answer_script(model)
    return model


@known_state()
def remove_all(model: nn.Module, *, refill: bool = False) -> None:
    """Takes every inserted attention out again: the original network, in place.

    Args:
        model: an operated network.
        refill: give what attention under init="paper" took the place of random values.

    Raises:
        ModelError: something was replaced and its weights are gone, and not `refill`.
    """
    gone = [path for path, m in model.named_modules() if STRIPPED in m.__dict__]
    if gone and not refill:
        raise weights_gone(gone[0])
    for module in list(model.modules()):
        restored(module)
        _put_back(module, None)
        _drop_hooks(module, lambda hook: True)
        for name, child in list(module._modules.items()):
            if child is not None and child.__dict__.get(MARK) is not None:
                del module._modules[name]
        if history(module):  # of the network, wherever it stands now
            remember(module, ())
            answer_script(module)
        for hooks in (module._forward_hooks, module._forward_pre_hooks):
            for key in [k for k, h in hooks.items() if isinstance(h, (OutputTap, InputTap))]:
                del hooks[key]


def weights_gone(path: str) -> ModelError:
    """Returns the error for a layer that was replaced for good, and is asked for again."""
    return ModelError(
        f"{path} was replaced under init='paper', so its weights are gone",
        "insert into a copy and keep the original, or use init='identity'",
    )


def _drop_hooks(module: nn.Module, ours: Callable[[Any], bool]) -> None:
    for hooks in (module._forward_hooks, module._forward_pre_hooks):
        for key, hook in list(hooks.items()):
            if isinstance(hook, (OutputHook, InputHook)) and ours(hook):
                del hooks[key]


def _drop_taps(model: nn.Module, part: nn.Module | None) -> None:
    if not isinstance(part, Tapped):
        return
    for module in model.modules():
        for hooks in (module._forward_hooks, module._forward_pre_hooks):
            for key, hook in list(hooks.items()):
                if isinstance(hook, (OutputTap, InputTap)) and hook.mailbox is part.mailbox:
                    del hooks[key]


def strip(module: nn.Module) -> dict[str, dict[str, Any]]:
    """Takes a module's own parameters and buffers away, and leaves a note of their form."""
    held = {"_parameters": dict(module._parameters), "_buffers": dict(module._buffers)}
    module.__dict__[STRIPPED] = tuple(
        (kind, name, *((None, None) if tensor is None else (tuple(tensor.shape), tensor.dtype)))
        for kind, tensors in held.items()
        for name, tensor in tensors.items()
    )
    module._parameters.clear()
    module._buffers.clear()
    return held


def _put_back(module: nn.Module, held: dict[str, dict[str, Any]] | None) -> None:
    """Gives a stripped module its parameters and buffers again, or random ones of their form."""
    form = module.__dict__.pop(STRIPPED, ())
    if held is not None:
        for kind, tensors in held.items():
            getattr(module, kind).update(tensors)
        return
    for kind, name, shape, dtype in form:
        if shape is None:
            getattr(module, kind)[name] = None
            continue
        # Small weights, so that a deep network of them stays finite; scales and variances near 1.
        random = 0.02 * torch.randn(shape) if len(shape) > 1 else 0.5 + torch.rand(shape)
        tensor = random.to(dtype) if dtype.is_floating_point else torch.zeros(shape, dtype=dtype)
        getattr(module, kind)[name] = nn.Parameter(tensor) if kind == "_parameters" else tensor
