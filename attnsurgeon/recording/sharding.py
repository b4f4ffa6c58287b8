"""A network spread over processes by torch's `fully_shard`: how it is known, and what it is plain.

Nothing here imports torch.distributed: where nobody else has, nothing is spread.
"""

from __future__ import annotations

import sys
from typing import Any

from torch import Tensor, nn

from attnsurgeon.errors import UsageError

# Attributes that `fully_shard` leaves on every module inside, and under keys of its own where it
# was called.
LEFT = ("_is_fsdp_managed_module", "_fsdp_use_orig_params")
_KEYS = "__composable_api_state_key"
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
_OF_HOOKS = (
    *("_forward_hooks_with_kwargs", "_forward_hooks_always_called"),
    "_forward_pre_hooks_with_kwargs",
)


def is_sharded(module: nn.Module) -> bool:
    """Tell whether `fully_shard` was called on this module itself."""
    return isinstance(module, _kinds("torch.distributed.fsdp", "FSDPModule"))


def is_spread(tensor: Tensor) -> bool:
    """Tell whether each process has a part of a tensor."""
    return isinstance(tensor, _kinds("torch.distributed.tensor", "DTensor"))


def refuse_sharded(model: nn.Module) -> None:
    """Refuse a network of which this process has a part only.

    Raises:
        UsageError: it says how the whole is had.
    """
    refuse_flattened(model)
    if any(map(is_sharded, model.modules())) or any(map(is_spread, model.parameters())):
        kind = plain_class(model).__name__
        raise UsageError(
            f"this {kind} is spread over processes, and each has a part of its weights",
            "call `whole = attnsurgeon.gathered(model)` in every process, then go on with `whole`"
            " in the first one: save, audit, verify, status, remove",
        )


def refuse_flattened(model: nn.Module) -> None:
    """Refuse a network in torch's older wrapper, which joins the parameters into long rows.

    Raises:
        UsageError: it names the newer way.
    """
    if any(map(_is_flattened, model.modules())):
        raise UsageError(
            "this network is in a FullyShardedDataParallel, which has joined its parameters",
            "shard it by `fully_shard` instead: attnsurgeon.shard(model, blocks)",
        )


def plain_class(module: nn.Module) -> type[nn.Module]:
    """Return the class that a module had before `fully_shard`."""
    kind = type(module)
    if not is_sharded(module):
        return kind
    spread = _kinds("torch.distributed.fsdp", "FSDPModule")
    return next(one for one in kind.__mro__ if not issubclass(one, spread))


def plain_vars(module: nn.Module) -> dict[str, Any]:
    """Return the attributes of a module without those that `fully_shard` put there."""
    held = {
        name: value
        for name, value in vars(module).items()
        if name not in LEFT and not name.startswith(_KEYS) and not _is_torchs(value)
    }
    for name in _HOOKS:
        kept = {key: hook for key, hook in held[name].items() if not _is_torchs(hook)}
        gone = held[name].keys() - kept.keys()
        held[name] = type(held[name])(kept)
        for other in _OF_HOOKS:
            if gone and other.startswith(name):
                keys = held[other]
                held[other] = type(keys)((k, v) for k, v in keys.items() if k not in gone)
    return held


def _is_torchs(value: Any) -> bool:
    """Whether a hook or a method was made by torch.distributed, however it calls itself."""
    function = getattr(value, "__func__", value)
    homes = getattr(function, "__globals__", {}).get("__name__"), getattr(value, "__module__", "")
    return callable(value) and any(str(home).startswith("torch.distributed.") for home in homes)


def _is_flattened(module: nn.Module) -> bool:
    return isinstance(module, _kinds("torch.distributed.fsdp", "FullyShardedDataParallel"))


def _kinds(home: str, name: str) -> tuple[type, ...]:
    """A class of torch.distributed, where it has been imported."""
    kind = getattr(sys.modules.get(home), name, None)
    return () if kind is None else (kind,)
