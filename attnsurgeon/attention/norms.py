"""Batch norm for values so small that there may be only one of them a channel."""

from __future__ import annotations

import torch
import torch.fx
from torch import Tensor
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from attnsurgeon.attention.gradients import eager, transformed

ONE_VALUE = (
    "a batch norm that sees a single value a channel (one pooled image) uses its running "
    "statistics and leaves them as they are; the authors' code raises there while training"
)


@torch.fx.wrap
def normalise(norm: _BatchNorm, x: Tensor) -> Tensor:
    """Returns norm(x); one value a channel has no batch statistics, so it uses the running ones."""
    if norm.training and x.numel() == x.shape[1]:
        mean, var, (weight, bias) = norm.running_mean, norm.running_var, _scale(norm)
        return F.batch_norm(x, mean, var, weight, bias, training=False, eps=norm.eps)
    # Of four axes and more torch takes a gradient for one of the layout of x that is not, where an
    # axis of one place leaves it a choice of strides.
    ambiguous = x.dim() > 3 and _learns(x) and 1 in x.shape
    if ambiguous and transformed():  # which know no hooks
        return _normalised(norm, x.flatten(2)).view(x.shape)
    y = _normalised(norm, x)
    # By a hook: views here would be further steps of the graph, which pruners do not follow.
    if ambiguous and y.requires_grad:
        y.register_hook(_in_rows)
    return y


def _normalised(norm: _BatchNorm, x: Tensor) -> Tensor:
    """Returns what torch's own forward does, also where the parameters alone are in half precision,
    as the mixed precision of `fully_shard` leaves them: torch's refuses that.
    """
    mean, var, count = norm.running_mean, norm.running_var, norm.num_batches_tracked
    if mean is None or norm.weight is None or norm.weight.dtype == mean.dtype:
        return _BatchNorm.forward(norm, x)
    factor = norm.momentum or 0.0
    if norm.training and count is not None:
        count.add_(1)
        factor = 1 / float(count) if norm.momentum is None else factor
    return F.batch_norm(x, mean, var, *_scale(norm), norm.training, factor, norm.eps)


def _scale(norm: _BatchNorm) -> tuple[Tensor | None, Tensor | None]:
    """Returns weight and bias in the type of the statistics."""
    if norm.running_mean is None or norm.weight is None:
        return norm.weight, norm.bias
    dtype = norm.running_mean.dtype
    return norm.weight.to(dtype), None if norm.bias is None else norm.bias.to(dtype)


def _in_rows(grad: Tensor | None) -> Tensor | None:
    """Returns a gradient with the strides that its shape has by default; None where torch has none.

    torch calls a hook also where nothing after it has a gradient, as where the function that used
    the output did not need it.
    """
    return None if grad is None else grad.reshape(-1).view(grad.shape)


def _learns(x: Tensor) -> bool:
    """Says whether a gradient may come back by torch's own kernel for a CPU."""
    return torch.is_grad_enabled() and eager() and x.device.type == "cpu" and x.is_contiguous()


class BatchNorm(_BatchNorm):
    """nn.BatchNorm1d, 2d and 3d in one, which does not raise on a single value a channel.

    Shape:
        x (N, C) or (N, C, ...) -> the same
    """

    def forward(self, input: Tensor) -> Tensor:
        """Returns the normalised input."""
        # A wrapped function keeps the branch out of torch.fx, and the mode a property of the
        # module, where tracing this method would freeze it.
        return normalise(self, input)

    def _check_input_dim(self, input: Tensor) -> None:
        """Accepts every rank."""
