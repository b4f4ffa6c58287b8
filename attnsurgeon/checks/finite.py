"""A network and what it computed -> where NaN or Inf stand, with which nothing can be compared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy


def weights_not_finite(model: nn.Module) -> Iterator[str]:
    """Yield the parameters with NaN or Inf, and the buffers with NaN: a mask may be -Inf."""
    for name, parameter in model.named_parameters():
        if _has_numbers(parameter) and not bool(torch.isfinite(parameter).all()):
            yield name
    for name, buffer in model.named_buffers():
        if _has_numbers(buffer) and bool(torch.isnan(buffer).any()):
            yield name


def outputs_not_finite(
    outputs: Sequence[Tensor], taps: Mapping[str, Sequence[Tensor]]
) -> Iterator[str]:
    """Yield `the outputs, first behind PATH` where they have NaN or Inf.

    Args:
        outputs: of one forward.
        taps: what each module made, in the order in which they ran.
    """
    if not any(map(_is_not_finite, outputs)):
        return
    first = (path for path, made in taps.items() if any(map(_is_not_finite, made)))
    yield f"the outputs, first behind {next(first, 'the last module')}"


def _is_not_finite(tensor: Tensor) -> bool:
    return _has_numbers(tensor) and not bool(torch.isfinite(tensor).all())


def _has_numbers(tensor: Tensor) -> bool:
    fractions = not is_lazy(tensor) and (tensor.is_floating_point() or tensor.is_complex())
    return fractions and not tensor.is_meta and tensor.element_size() > 1
