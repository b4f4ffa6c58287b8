"""Modules that gather statistics while they train -> the same, held in evaluation mode.

Whoever calls `train()` on the network, on a part of it, or on the norm itself, a held norm stays in
evaluation mode, and whoever resets its statistics to gather others (torch's `update_bn`), which it
would not, leaves them as they are. It is held twice: by itself, and by the module that it stands
in, because tools that convert norms (`convert_sync_batchnorm`) put others in their places that know
nothing of it.
"""

from __future__ import annotations

import functools
from typing import Any

from torch import nn
from torch.nn.utils import parametrizations
from torch.nn.utils.spectral_norm import SpectralNorm

_RESET = "reset_running_stats"
# Estimates the largest singular value anew at every forward in training mode.
_Estimate: Any = getattr(parametrizations, "_SpectralNorm", ())


def statistics(module: nn.Module) -> list[str]:
    """The buffers that a module itself changes in a forward of training mode, as norms do."""
    hooks = module._forward_pre_hooks.values()
    estimated = {
        f"{hook.name}_{v}" for hook in hooks if isinstance(hook, SpectralNorm) for v in "uv"
    }
    if isinstance(module, _Estimate):
        estimated |= {"_u", "_v"}
    return [
        name
        for name, buffer in module._buffers.items()
        if buffer is not None and (name.startswith("running_") or name in estimated)
    ]


def hold(model: nn.Module, path: str) -> None:
    """Hold a module of a network in evaluation mode."""
    _hold(model.get_submodule(path))
    if path:
        owner, _, name = path.rpartition(".")
        outer = model.get_submodule(owner)
        itself, inside = _state(outer)
        _set(outer, itself, inside | {name})


def release(model: nn.Module, path: str) -> None:
    """Let a module that was held follow the mode of the network again."""
    module = model.get_submodule(path)
    itself, inside = _state(module)
    if itself:
        _set(module, False, inside)
        module.training = model.training
    if path:
        owner, _, name = path.rpartition(".")
        outer = model.get_submodule(owner)
        itself, inside = _state(outer)
        _set(outer, itself, inside - {name})


def release_all(model: nn.Module) -> None:
    """Let every module of a network follow its mode again."""
    for module in model.modules():
        itself, _ = _state(module)
        _set(module, False, frozenset())
        if itself:
            module.training = model.training


def _hold(module: nn.Module) -> None:
    _, inside = _state(module)
    _set(module, True, inside)
    module.training = False


def _state(module: nn.Module) -> tuple[bool, frozenset[str]]:
    """Whether a module is held, and the names of those in it that are."""
    train: Any = module.__dict__.get("train")
    func = getattr(train, "func", None)
    if func is train_but_held:
        return train.args[1:]
    return func is stay_in_evaluation, frozenset()


def _set(module: nn.Module, itself: bool, inside: frozenset[str]) -> None:
    held = _state(module) != (False, frozenset())
    if "train" in module.__dict__ and not held:  # someone else's, which stays
        return
    if itself and hasattr(module, _RESET):
        module.__dict__[_RESET] = keep_statistics
    elif module.__dict__.get(_RESET) is keep_statistics:
        del module.__dict__[_RESET]
    if itself or inside:
        module.__dict__["train"] = functools.partial(train_but_held, module, itself, inside)
    elif held:
        del module.__dict__["train"]


def train_but_held(
    module: nn.Module, itself: bool, inside: frozenset[str], mode: bool = True
) -> nn.Module:
    """Take the place of a module's `train`: what is held does not follow, whatever stands there."""
    type(module).train(module, mode)
    if itself:
        module.training = False
    for name in inside:
        inner = module._modules.get(name)
        if inner is not None:
            _hold(inner)
    return module


def keep_statistics() -> None:
    """Take the place of a held norm's `reset_running_stats`."""


def stay_in_evaluation(module: nn.Module, mode: bool = True) -> nn.Module:
    """Take the place of a norm's `train`, in networks that an earlier version pickled."""
    return train_but_held(module, True, frozenset(), mode)
