"""nn.Module -> a twin to run in its place: on meta without numbers, or around the same weights."""

from __future__ import annotations

import contextlib
import copy
import pickle
from collections import OrderedDict
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.overrides import TorchFunctionMode

from attnsurgeon.errors import ModelError
from attnsurgeon.recording.hooks import keep_hooks_apart
from attnsurgeon.recording.sharding import LEFT, is_sharded, plain_class, plain_vars, refuse_sharded

Model = TypeVar("Model", bound=nn.Module)
_SMALL = 64  # elements of a constant that is worth its numbers


def meta_twin(model: Model, *, constants: bool = False) -> Model:
    """Copies a model to the meta device without ever holding a second set of weights.

    Classes, training flags and plain attributes are those of `model`, its hooks act on copies of
    what they hold (`hooks.py`, as in every twin); a tensor shared by
    two modules stays shared; dtypes, strides and `requires_grad` stay. `model` is only read.

    Args:
        model: on any device.
        constants: let small tensors in plain attributes keep their numbers, on the CPU: a
            detector's strides are read when it lays out its anchors.

    Raises:
        ModelError: the model has lazy parameters, is quantized or scripted, or has an attribute
            that cannot be copied.
    """
    memo: dict[int, object] = {id(tensor): _on_meta(tensor) for tensor in _registered(model)}
    memo |= {id(module): _scripted_on_meta(module) for module in _scripted(model)}
    return _copied(model, memo, _kept if constants else _on_meta)


def shared_twin(model: Model) -> Model:
    """Copies a model's modules and buffers around its own parameters, which are not copied.

    Running the twin, in any mode and with any hooks, leaves `model` as it was; changing a
    parameter's values in place would not.

    Raises:
        ModelError: the model has lazy parameters, or an attribute that cannot be copied.
    """
    shared = [t for t in _registered(model) if isinstance(t, nn.Parameter)]
    return _copied(model, {id(tensor): tensor for tensor in shared}, _cloned)


def twin_around(model: Model, shared: Iterable[Tensor]) -> Model:
    """Copy a model around some of its tensors, which are not copied and must only be read.

    Raises:
        ModelError: the model has lazy parameters, or an attribute that cannot be copied.
    """
    memo: dict[int, object] = {id(tensor): _cloned(tensor) for tensor in _registered(model)}
    return _copied(model, memo | {id(tensor): tensor for tensor in shared}, _cloned)


def hollow_twin(model: Model, hollow: Iterable[nn.Module]) -> Model:
    """Copies a model of which not all modules will run: those that will not have what they have.

    A hollow module answers for its attributes and is an object of its own, but the modules in it
    are the model's. Tensors are shared, for a run on which none of them is changed.

    Args:
        model: a twin, on the meta device.
        hollow: those of its modules that will not run.

    Raises:
        ModelError: the model has an attribute that cannot be copied.
    """
    memo: dict[int, object] = {id(module): _hollow(module) for module in hollow}
    for module in _reached(model, memo, set()):
        held = vars(module)
        tensors = (*held["_parameters"].values(), *held["_buffers"].values())
        memo.update((id(tensor), tensor) for tensor in tensors if tensor is not None)
    return _copied(model, memo, _on_meta, to_run=False)  # the hooks of a twin are apart already


def _hollow(module: nn.Module) -> nn.Module:
    kind: Any = type(module)
    made = kind.__new__(kind)
    vars(made).update(vars(module))
    return made


def _reached(module: nn.Module, ends: Container[int], seen: set[int]) -> Iterator[nn.Module]:
    """The modules that are found without a step into one of those where it ends."""
    if id(module) in ends or id(module) in seen:
        return
    seen.add(id(module))
    yield module
    for child in module._modules.values():
        if child is not None:
            yield from _reached(child, ends, seen)


def full_twin(model: Model) -> Model:
    """Copy a model, numbers and all: what copy.deepcopy does, for more models.

    Old-style weight_norm and pruning leave computed tensors on a module, which deepcopy refuses.

    Raises:
        ModelError: the model has lazy parameters, or an attribute that cannot be copied.
    """
    return twin_around(model, ())


def handed_over(model: Model) -> Model:
    """Copy a model for its owner: the same as `full_twin`, with the very hooks that were hung.

    Raises:
        ModelError: the model has lazy parameters, or an attribute that cannot be copied.
    """
    memo: dict[int, object] = {id(tensor): _cloned(tensor) for tensor in _registered(model)}
    return _copied(model, memo, _cloned, to_run=False)


def whole_twin(model: Model, whole: Mapping[int, Tensor]) -> Model:
    """Copy a model that `fully_shard` has spread over processes, as it was before that.

    Modules get their class back, and the hooks and attributes that were put there stay behind.

    Args:
        model: the sharded one; it is only read.
        whole: `id` of each of its parameters and buffers -> what stands for it in the copy.

    Raises:
        ModelError: the model has an attribute that cannot be copied.
    """
    noted: dict[int, object] = dict(whole)
    spread = [module for module in model.modules() if is_sharded(module)]
    noted.update((id(module), _shell(plain_class(module))) for module in spread)
    with _copying(model), _CopyTensors(_cloned):
        for module in spread:
            vars(noted[id(module)]).update(copy.deepcopy(plain_vars(module), noted))
        twin = copy.deepcopy(model, noted)
    for module in twin.modules():
        for name in LEFT:
            vars(module).pop(name, None)
    return twin


def _shell(kind: Any) -> nn.Module:
    return kind.__new__(kind)


def _copied(
    model: Model,
    memo: dict[int, object],
    copy_of: Callable[[Tensor], Tensor],
    *,
    to_run: bool = True,
) -> Model:
    noted = dict(memo)
    for module in _reached(model, memo, set()):
        noted.update(_empty_containers(module))
    with _copying(model), _CopyTensors(copy_of):
        twin = copy.deepcopy(model, noted)
        if to_run:
            keep_hooks_apart(twin, noted)
        return twin


@contextlib.contextmanager
def _copying(model: nn.Module) -> Iterator[None]:
    """Says it in one message where a model cannot be copied."""
    try:
        yield
    except (TypeError, RuntimeError, AttributeError, copy.Error, pickle.PickleError) as error:
        raise ModelError(
            f"this {type(model).__name__} cannot be copied: {error}",
            "an attribute of the model refuses copy.deepcopy (an open file, a lock, a generator?);"
            " set it after the surgery",
        ) from error


def _empty_containers(module: nn.Module) -> dict[int, object]:
    """What the empty dicts of a module become: deepcopy takes five times as long over them."""
    return {
        id(value): type(value)()
        for value in vars(module).values()
        if type(value) in (dict, OrderedDict) and not value
    }


def _scripted(model: nn.Module) -> Iterator[nn.Module]:
    """The modules that are TorchScript: they copy themselves, and what is inside of them."""
    if isinstance(model, torch.jit.ScriptModule):
        raise ModelError(
            "the network is scripted: it has no forward in Python that attention could go into",
            "operate the network before torch.jit.script or torch.jit.trace is called",
        )
    for child in model.children():
        if isinstance(child, torch.jit.ScriptModule):
            yield child
        else:
            yield from _scripted(child)


def _scripted_on_meta(module: nn.Module) -> nn.Module:
    """Copies a scripted module; its tensors are in C++, out of reach of deepcopy's memo."""
    twin: Any = copy.deepcopy(module)
    for inner in twin.modules():
        for name, tensor in (*inner._parameters.items(), *inner._buffers.items()):
            inner._c.setattr(name, _on_meta(tensor))
    return twin


def _registered(model: nn.Module) -> Iterator[Tensor]:
    refuse_sharded(model)
    for path, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            continue
        if any(isinstance(value, torch.ScriptObject) for value in vars(module).values()):
            raise ModelError(
                f"{path or 'the model'} ({type(module).__name__}) has packed its weights away: "
                "the network is quantized",
                "operate the network before it is quantized",
            )
        for tensor in (*module._parameters.values(), *module._buffers.values()):
            if tensor is None:
                continue
            if is_lazy(tensor):
                raise ModelError(
                    f"{path or 'the model'} ({type(module).__name__}) has parameters without shape",
                    "run one forward first: a lazy module learns its shapes from its first input",
                )
            if tensor.is_nested and tensor.layout is torch.strided:
                raise ModelError(
                    f"{path or 'the model'} ({type(module).__name__}) has a nested tensor without"
                    " shape",
                    "nest it with layout=torch.jagged",
                )
            yield tensor


def _on_meta(tensor: Tensor) -> Tensor:
    if tensor.layout is not torch.strided:
        return _like(tensor, torch.empty_like(tensor.detach(), device="meta"))
    # The same, but four times as fast: on meta empty_like is a decomposition in Python.
    size, stride = tensor.size(), tensor.stride()
    return _like(tensor, torch.empty_strided(size, stride, dtype=tensor.dtype, device="meta"))


def _kept(tensor: Tensor) -> Tensor:
    small = tensor.numel() <= _SMALL and not tensor.is_meta
    return _like(tensor, tensor.detach().cpu().clone()) if small else _on_meta(tensor)


def _cloned(tensor: Tensor) -> Tensor:
    return _like(tensor, tensor.detach().clone())


def _like(tensor: Tensor, twin: Tensor) -> Tensor:
    if type(tensor) is nn.Parameter:
        # as_subclass() would make a view, for which torch adds up a product in another order.
        twin = nn.Parameter(twin, tensor.requires_grad)
    else:
        kind = type(tensor)
        twin = twin if type(twin) is kind else twin.as_subclass(kind)
        twin.requires_grad_(tensor.requires_grad)
    # Marks set by hand, `param.no_weight_decay = True`, live in the instance dict.
    vars(twin).update(vars(tensor))
    return twin


class _CopyTensors(TorchFunctionMode):
    """Answers every copy of a tensor inside deepcopy.

    Parameters, and on meta buffers, are in the memo already; this one is for tensors in plain
    attributes, lists and hooks. It also lets non-leaf tensors pass (the `weight` of an old-style
    weight_norm), which deepcopy itself refuses.
    """

    def __init__(self, copy_of: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.copy_of = copy_of

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is Tensor.__deepcopy__:
            tensor, memo = args
            memo[id(tensor)] = twin = self.copy_of(tensor)
            return twin
        if func is Tensor.clone:  # how an unregistered nn.Parameter copies its data
            return self.copy_of(args[0])
        return func(*args, **(kwargs or {}))
