"""A convolution with a weight of its own for every image of the batch."""

from __future__ import annotations

import itertools
from typing import Any

import torch
import torch.fx
import torch.onnx
from torch import Tensor, nn
from torch.nn import functional as F

from attnsurgeon.attention.gradients import jit_traces
from attnsurgeon.attention.layout import LAST
from attnsurgeon.attention.shapes import CONVOLUTIONS, unflatten
from attnsurgeon.errors import MechanismError

_CONVOLVE = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


@torch.fx.wrap
def convolve_each(
    input: Tensor,
    weight: Tensor | tuple[Tensor, Tensor],
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    """Returns the convolution of image n with weight n, as one grouped convolution.

    Args:
        input: (N, C, ...), one to three spatial axes.
        weight: (N, out, C / groups, ...); or a pair, the weight (out, C / groups, ...) that all
            images share, convolved as it would be alone, and what each image adds to it.
        bias, stride, padding, dilation, groups: as of torch.nn.functional.conv2d.
    """
    rank, images, channels = input.dim() - 2, input.shape[0], input.shape[1]
    convolve = _CONVOLVE[rank]
    if isinstance(weight, tuple):
        common, weight = weight
        shared = convolve(input, common, bias, stride, padding, dilation, groups)
        return shared + convolve_each(input, weight, None, stride, padding, dilation, groups)
    # The number of groups would stay that of the images traced with; of ONNX it is a constant.
    if jit_traces() or torch.onnx.is_in_onnx_export():
        made = _tap_by_tap(input, weight, stride, padding, dilation, groups)
        return made if bias is None else made + bias.reshape(1, -1, *[1] * rank)
    folded = input.reshape(1, images * channels, *input.shape[2:])
    made = convolve(folded, weight.flatten(0, 1), None, stride, padding, dilation, images * groups)
    made = made.reshape(images, weight.shape[1], *made.shape[2:])
    if rank > 1 and input.is_contiguous(memory_format=LAST[input.dim()]):
        made = made.contiguous(memory_format=LAST[input.dim()])
    return made if bias is None else made + bias.reshape(1, -1, *[1] * rank)


def _tap_by_tap(
    input: Tensor, weight: Tensor, stride: Any, padding: Any, dilation: Any, groups: int
) -> Tensor:
    """Returns the same as a sum of products, one for each place of the kernel."""
    kernel = weight.shape[3:]
    rank = len(kernel)
    stride, dilation = ((n,) * rank if isinstance(n, int) else n for n in (stride, dilation))
    spans = [step * (int(k) - 1) for k, step in zip(kernel, dilation, strict=True)]
    if isinstance(padding, str):
        ends = [(n // 2, n - n // 2) if padding == "same" else (0, 0) for n in spans]
    else:
        ends = [(n, n) for n in ((padding,) * rank if isinstance(padding, int) else padding)]
    x = F.pad(input, [n for pair in reversed(ends) for n in pair])
    x = unflatten(x, 1, (groups, -1))
    made: Any = 0
    size: Any = ()
    for tap in itertools.product(
        *(range(0, n + 1, d) for n, d in zip(spans, dilation, strict=True))
    ):
        along = [
            slice(first, first - span or None, step)
            for first, span, step in zip(tap, spans, stride, strict=True)
        ]
        seen = x[(..., *along)]
        place = tuple(n // d for n, d in zip(tap, dilation, strict=True))
        made = made + unflatten(weight[(..., *place)], 1, (groups, -1)) @ seen.flatten(3)
        size = seen.shape[3:]
    return unflatten(made.flatten(1, 2), 2, size)


class Excited(nn.Module):
    """A convolution whose weight passes through an excitation: what stands alone.

    Args:
        conv: the convolution.
        excitation: weight -> weight; with `per_sample`, (weight, input) -> a weight an image.
        per_sample: which of the two.

    Raises:
        MechanismError: the convolution does more than to convolve with its weight.
    """

    def __init__(self, conv: nn.Module, excitation: nn.Module, *, per_sample: bool) -> None:
        super().__init__()
        if type(conv).forward not in [kind.forward for kind in CONVOLUTIONS]:
            raise MechanismError(
                f"{type(conv).__name__} has a forward of its own, so its weight cannot be excited "
                "outside of a network",
                "insert it into a network, whose code can be rewritten",
            )
        self.conv = conv
        self.excitation = excitation
        self.per_sample = per_sample

    def forward(self, x: Tensor) -> Tensor:
        """Returns the convolution of `x` with the excited weight."""
        conv: Any = self.conv
        if not self.per_sample:
            return conv._conv_forward(x, self.excitation(conv.weight), conv.bias)
        weight, padding = self.excitation(conv.weight, x), conv.padding
        if conv.padding_mode != "zeros":
            x = F.pad(x, conv._reversed_padding_repeated_twice, mode=conv.padding_mode)
            padding = 0
        return convolve_each(x, weight, conv.bias, conv.stride, padding, conv.dilation, conv.groups)
