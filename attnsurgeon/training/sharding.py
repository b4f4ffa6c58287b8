"""Operated network <-> the same spread over processes by torch's `fully_shard`, and whole again.

model = attnsurgeon.shard(model, model.blocks)     # in every process
...                                                # training, as of any sharded network
whole = attnsurgeon.gathered(model)                # in every process; None but in the first
if whole is not None:
    attnsurgeon.save(whole, "net-eca")
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from attnsurgeon.attention.linked.chain import Linked
from attnsurgeon.errors import UsageError
from attnsurgeon.given import takes_networks
from attnsurgeon.recording.sharding import is_sharded, is_spread, refuse_flattened, refuse_sharded
from attnsurgeon.recording.twin import whole_twin


@takes_networks()
def shard(model: nn.Module, blocks: Iterable[nn.Module] = (), **options: Any) -> nn.Module:
    """Spread a network over the processes, block by block, in place.

    This is torch's `fully_shard` on each block and then on the network. A module that several
    blocks share, such as the one attention that all sites of `dia` have, cannot be gathered with
    one of them, so it becomes a part of its own first. Of a network that shares nothing, the loop
    over `fully_shard` does the same.

    Args:
        model: the network, operated or not; the same in every process.
        blocks: modules of it that are gathered one at a time, `model.blocks`; a block inside
            another one comes first, in whatever order they are given.
        **options: of `fully_shard`: mesh, mp_policy, offload_policy, reshard_after_forward, ...

    Returns:
        The same network.

    Raises:
        UsageError: it is sharded already, a block is none of its modules, blocks share a parameter
            but not the module that has it, or no processes were started.
    """
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    refuse_sharded(model)
    if options.get("mesh") is None and not torch.distributed.is_initialized():
        raise UsageError(
            "there are no processes to spread the network over",
            "start the script with torchrun, and call torch.distributed.init_process_group() first",
        )
    units = _inner_first(model, list(blocks))
    for part in _shared(model, units):
        # It runs once for each site: gathered at the first, it stays for the others.
        fully_shard(part, **{**options, "reshard_after_forward": False})
        if isinstance(part, Linked):  # a chain does not call it, but asks it for a step
            register_fsdp_forward_method(part, "step")
    for block in units:
        fully_shard(block, **options)
    fully_shard(model, **options)
    return model


@takes_networks()
def gathered(model: nn.Module) -> nn.Module | None:
    """Put a network together that is spread over processes: what `save` and the checks can take.

    To be called in every process, as each sends its part; one that does not call it lets the
    others wait. Buffers, running statistics among them, are not spread and not exchanged either:
    those of the first process are taken.

    Args:
        model: a network that `fully_shard` was called on; it is not changed.

    Returns:
        In the first process a copy on the CPU, with the classes, keys, weights and modes that it
        would have without sharding, attention and its records included; in the others None.

    Raises:
        UsageError: nothing of the network is spread.
    """
    refuse_flattened(model)
    units: list[Any] = [module for module in model.modules() if is_sharded(module)]
    for unit in units:  # what a forward has left gathered may have another dtype
        unit.reshard()
    named = {id(tensor): tensor for tensor in _tensors(model)}
    if not units and not any(map(is_spread, named.values())):
        raise UsageError(
            f"this {type(model).__name__} is not spread over processes",
            "save it as it is; of a DistributedDataParallel, its `.module`",
        )
    first = torch.distributed.get_rank() == 0
    whole = {key: _whole(tensor, keep=first) for key, tensor in named.items()}
    return whole_twin(model, whole) if first else None


def _tensors(model: nn.Module) -> Iterator[Tensor]:
    """Every parameter and buffer, in an order that is the same in every process."""
    for module in model.modules():
        for tensor in (*module._parameters.values(), *module._buffers.values()):
            if tensor is not None:
                yield tensor


def _whole(tensor: Tensor, *, keep: bool) -> Tensor:
    """All of a tensor on the CPU; every process has to ask for it, and one keeps it."""
    given: Any = tensor.detach()
    full = given.full_tensor() if is_spread(tensor) else given
    full = full.to("cpu", copy=True) if keep else torch.empty(0)
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(full, tensor.requires_grad)
    return full


def _inner_first(model: nn.Module, blocks: list[nn.Module]) -> list[nn.Module]:
    """The blocks, each before those that it is in.

    Raises:
        UsageError: one is none of the network.
    """
    order = {id(module): at for at, module in enumerate(model.modules())}  # outer ones first
    for block in blocks:
        if id(block) not in order or block is model:
            what = "the network itself" if block is model else "no module of the network"
            raise UsageError(
                f"blocks: a {type(block).__name__} is {what}", "give its blocks: model.blocks"
            )
    return sorted(dict.fromkeys(blocks), key=lambda block: order[id(block)], reverse=True)


def _shared(model: nn.Module, blocks: Iterable[nn.Module]) -> list[nn.Module]:
    """The modules that stand in several blocks, or in one and outside of all; inner ones apart.

    Raises:
        UsageError: a parameter does, and no module that has it.
    """
    known = {id(block) for block in blocks}
    homes: dict[str, int] = {"": id(model)}  # path of a module -> the innermost block around it
    first: dict[nn.Module, int] = {}
    owners: dict[nn.Parameter, tuple[int, str]] = {}
    shared: dict[nn.Module, None] = {}
    torn: list[str] = []
    for path, module in model.named_modules(remove_duplicate=False):
        around = homes[path.rpartition(".")[0]]
        homes[path] = home = id(module) if id(module) in known else around
        if first.setdefault(module, around) != around:
            shared[module] = None
        for name, parameter in module._parameters.items():
            if parameter is not None:
                before, where = owners.setdefault(parameter, (home, path))
                if before != home and model.get_submodule(where) is not module:
                    torn.append(f"{path}.{name}")
    inside = {id(part) for module in shared for part in list(module.modules())[1:]}
    if torn:
        raise UsageError(
            f"{torn[0]} is also a parameter of another block, in another module",
            "give blocks= one that holds both, or none: the network is then gathered as a whole",
        )
    return [module for module in shared if id(module) not in inside and id(module) not in known]
