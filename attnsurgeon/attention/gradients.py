"""Functions with a backward of their own, called as one only where there is a backward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def jit_traces() -> bool:
    """Says whether torch.jit traces, for a file of TorchScript or of the classic ONNX exporter."""
    return torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]


def eager() -> bool:
    """Says whether a shortcut for certain sizes may be taken: a graph is to serve all of them."""
    return not (torch.compiler.is_compiling() or jit_traces())


def transformed() -> bool:
    """Says whether torch.func computes: gradients as functions, or many of them at once by vmap."""
    return torch._C._are_functorch_transforms_active()


def equal_(x: Tensor, y: Tensor) -> Tensor:
    """Returns 1 where x == y, else 0, in the dtype of `x` and in its memory: a product with
    booleans is slow. What vmap runs is another tensor, as vmap has no rule for the first.
    """
    return x.eq(y).to(x.dtype) if transformed() else x.eq_(y)


def applied(
    function: type[torch.autograd.Function],
    *args: Any,
    plain: Callable[..., Any] | None = None,
    traced: Callable[..., Any] | None = None,
) -> Any:
    """Returns function.apply(*args), or by plain operations where no gradient is wanted.

    torch.jit traces by plain operations too: a call of Python has no place in a file of TorchScript
    or ONNX. The numbers are the same, for it is the forward of the function that runs.

    Args:
        function: whose `forward` takes no context (it has a `setup_context`).
        args: tensors and plain values.
        plain: computes what `function` does, where its `forward` takes a context.
        traced: the same for torch.jit, where `forward` writes into parts of a tensor: the classic
            ONNX exporter loses what is written there.
    """
    learned = any(isinstance(a, Tensor) and a.requires_grad for a in args)
    wanted = (learned and torch.is_grad_enabled()) or transformed()
    if jit_traces() and traced is not None:
        return traced(*args)
    if jit_traces() or not wanted:
        return (plain or function.forward)(*args)
    return function.apply(*args)
