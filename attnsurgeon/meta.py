"""nn.Module -> its meta twin: the same object graph with shapes in place of numbers."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.overrides import TorchFunctionMode

from attnsurgeon.errors import ModelError

Model = TypeVar("Model", bound=nn.Module)


def meta_twin(model: Model) -> Model:
    """Copy a model to the meta device without ever holding a second set of weights.

    Classes, hooks, training flags and plain attributes are those of `model`; a tensor shared by
    two modules stays shared; dtypes, strides and `requires_grad` stay. `model` is only read.

    Raises:
        ModelError: the model has lazy parameters, or an attribute that cannot be copied.
    """
    memo: dict[int, object] = {id(tensor): _on_meta(tensor) for tensor in _registered(model)}
    try:
        with _CopyOnMeta():
            return copy.deepcopy(model, memo)
    except (TypeError, RuntimeError, AttributeError, copy.Error, pickle.PickleError) as error:
        raise ModelError(
            f"this {type(model).__name__} cannot be copied: {error}",
            "an attribute of the model refuses copy.deepcopy (an open file, a lock, a generator?);"
            " set it after the surgery",
        ) from error


def _registered(model: nn.Module) -> Iterator[Tensor]:
    for path, module in model.named_modules():
        for tensor in (*module._parameters.values(), *module._buffers.values()):
            if tensor is None:
                continue
            if is_lazy(tensor):
                raise ModelError(
                    f"{path or 'the model'} ({type(module).__name__}) has parameters without shape",
                    "run one forward first: a lazy module learns its shapes from its first input",
                )
            yield tensor


def _on_meta(tensor: Tensor) -> Tensor:
    twin = torch.empty_like(tensor.detach(), device="meta").as_subclass(type(tensor))
    twin.requires_grad_(tensor.requires_grad)
    # Marks set by hand, `param.no_weight_decay = True`, live in the instance dict.
    vars(twin).update(vars(tensor))
    return twin


class _CopyOnMeta(TorchFunctionMode):
    """Answers every copy of a tensor inside deepcopy with a meta tensor.

    Registered tensors are in the memo already; this one is for those in plain attributes, lists
    and hooks. It also lets non-leaf tensors pass (the `weight` of an old-style weight_norm),
    which deepcopy itself refuses.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is Tensor.__deepcopy__:
            tensor, memo = args
            twin = _on_meta(tensor)
            memo[id(tensor)] = twin
            return twin
        if func is Tensor.clone:  # how an unregistered nn.Parameter copies its data
            return torch.empty_like(args[0], device="meta")
        return func(*args, **(kwargs or {}))
