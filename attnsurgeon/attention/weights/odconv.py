"""Omni-dimensional dynamic convolution: gates along all four axes of a set of kernels.

    z = relu(batchnorm(W mean(x)))
    c = sigmoid(W_c z), f = sigmoid(W_f z), s = sigmoid(W_s z), a = softmax(W_a z)
    w' = f * c * s * sum over k of a_k w_k, where w_1 is the convolution's own weight

Li et al., "Omni-Dimensional Dynamic Convolution", ICLR 2022,
https://arxiv.org/abs/2209.07947
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.fx
from torch import Tensor, nn
from torch.nn import functional as F

from attnsurgeon.attention.convs.geometry import Conv
from attnsurgeon.attention.gradients import applied
from attnsurgeon.attention.identity import Gate, Identity, open_gates, zero
from attnsurgeon.attention.norms import ONE_VALUE, BatchNorm
from attnsurgeon.attention.pictures import Picture
from attnsurgeon.attention.pooling import Mean
from attnsurgeon.attention.registry import mechanism
from attnsurgeon.attention.shapes import unflatten
from attnsurgeon.attention.weights.experts import Experts, by_rows, rows, shares

LEAST = 16  # hidden units


def _across(channel: Tensor, place: Tensor) -> Tensor:
    """Returns (N, groups, 1, C_in / groups * places): the gates of one output's numbers."""
    return (channel.unsqueeze(3) * place[:, None, None]).flatten(2).unsqueeze(2)


class _Gated(torch.autograd.Function):
    """Kernels mixed and gated, with nothing kept of their size: the backward mixes once more."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        weight: Tensor,
        others: Tensor,
        shares: Tensor,
        channel: Tensor,
        outputs: Tensor,
        place: Tensor,
    ) -> Tensor:
        mixed = rows(weight, others, shares)
        mixed = unflatten(mixed, 1, (channel.shape[1], weight.shape[0] // channel.shape[1], -1))
        made = mixed * _across(channel, place) * outputs.unsqueeze(3)
        return unflatten(made.flatten(1), 1, weight.shape)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        weight, others, shares, channel, outputs, place = ctx.saved_tensors
        groups, inputs = channel.shape[1:]
        shape = (groups, weight.shape[0] // groups, -1)
        across, grad = _across(channel, place), unflatten(grad.flatten(1), 1, shape)
        by_gate = grad * unflatten(rows(weight, others, shares), 1, shape)
        by_output = by_gate @ across.transpose(2, 3)
        by_across = outputs.expand(-1, -1, by_gate.shape[2]).unsqueeze(2) @ by_gate
        by_across = unflatten(by_across.squeeze(2), 2, (inputs, -1))
        by_mixed = grad * across * outputs.unsqueeze(3)
        return (
            *by_rows(by_mixed.flatten(1), weight, others, shares),
            (by_across * place[:, None, None]).sum(3),
            by_output.squeeze(3).sum_to_size(outputs.shape),
            (by_across * channel.unsqueeze(3)).sum((1, 2)).sum_to_size(place.shape),
        )


@torch.fx.wrap
def gated(weight: Tensor, others: Tensor, shares: Tensor, *gates: Tensor) -> Tensor:
    """Returns (N, C, C_in / groups, ...): for each image the kernels mixed, times all gates.

    Args:
        weight: (C, C_in / groups, ...), the first kernel.
        others: (K - 1, ...), each of its shape.
        shares: (N, K).
        gates: of inputs (N, groups, C_in / groups), outputs (N, groups, C / groups or 1), and
            places of the kernel (N, places).
    """
    return applied(_Gated, weight, others, shares, *gates)


def hidden(conv: Conv, reduction: int) -> int:
    """Returns the width of the layer that all gates are made from."""
    return max(conv.in_channels // reduction, LEAST)


def axes(conv: Conv) -> tuple[bool, bool]:
    """Returns whether there are gates of output channels, and of places of the kernel."""
    depthwise = conv.in_channels == conv.groups == conv.out_channels
    return not depthwise, math.prod(conv.kernel_size) > 1


def count(conv: Conv, kernels: int, reduction: int) -> int:
    """Returns the number of parameters."""
    m, window = hidden(conv, reduction), math.prod(conv.kernel_size)
    filters, places = axes(conv)
    gates = conv.in_channels + filters * conv.out_channels + places * window
    gates += kernels if kernels > 1 else 0
    return conv.in_channels * m + 2 * m + gates * (m + 1) + (kernels - 1) * conv.weight.numel()


def start(module: nn.Module, replaced: nn.Module | None) -> nn.Module:
    """Opens all gates, and makes the other kernels differences from the first, of zero."""
    assert isinstance(module, ODConv)
    zero(module, *(n for n in ("channel", "filter", "place") if getattr(module, n) is not None))
    open_gates(module)
    module.apart = True
    if module.experts is not None:
        module.experts.at_rest()
    return module


@mechanism(
    "odconv",
    kind="weight",
    ranks=(1, 2, 3),
    placement="conv",
    picture=Picture(("branches",), "a, the share of each kernel, the first being the old", shares),
    formula="C_in m + 2m + (C_in + C + k^2 + K)(m + 1) + (K - 1) k^2 C_in C / groups, "
    "m = max(C_in//r, 16), K = 4; no C where depthwise, no k^2 where k = 1",
    count=count,
    identity=Identity(
        "native",
        "the last layers of the gates start at zero and these are 2 * sigmoid; the other kernels "
        "are what they differ by from the first, and start at zero; what is added to the weight is "
        "convolved apart",
        start,
    ),
    limits=(
        "pruning: it changes the weight of a convolution, and a pruner follows only what the "
        "layers make of the map",
    ),
    deviations=(
        "the temperature by which the authors divide scores is 1, where they end",
        "gates multiply the weight of each image, where the authors' code multiplies input and "
        "output instead, which is the same",
        "the first kernel is the weight that is there, so a pretrained one is not lost",
        "the authors leave the stem and the convolutions of shortcuts as they are; the placement "
        "takes all, and rules take fewer",
        "ranks 1 and 3 are not the authors': a gate for each place of the kernel there too",
        ONE_VALUE,
    ),
    lighter="kernels=1, or a placement that takes few convolutions, as block-conv3x3",
    takes=("weight", "value"),
    per_sample=True,
)
class ODConv(nn.Module):
    """Changes the weight of a convolution for each image along all of its axes.

    Args:
        conv: the convolution whose weight it is.
        kernels: K, the weight that is there among them; 1 for gates alone.
        reduction: r, by which the hidden layer is narrower, down to 16.

    Shape:
        weight (C, C_in / groups, ...), x (N, C_in, ...) -> (N, C, C_in / groups, ...);
        under the identity start the weight itself, and what is added to it for each image
    """

    def __init__(self, conv: Conv, *, kernels: int = 4, reduction: int = 16) -> None:
        super().__init__()
        m = hidden(conv, reduction)
        filters, places = axes(conv)
        self.groups = conv.groups
        self.rank = len(conv.kernel_size)
        self.kernel = conv.kernel_size
        self.pool = Mean(rank=self.rank)
        self.fc = nn.Linear(conv.in_channels, m, bias=False)
        self.norm = BatchNorm(m)
        self.channel = nn.Linear(m, conv.in_channels)
        self.filter = nn.Linear(m, conv.out_channels) if filters else None
        self.place = nn.Linear(m, math.prod(conv.kernel_size)) if places else None
        self.share = nn.Linear(m, kernels) if kernels > 1 else None
        self.experts = Experts(conv, kernels) if kernels > 1 else None
        self.gate = Gate()
        self.apart = False
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Starts as the authors' networks do."""
        for layer in (self.fc, self.channel, self.filter, self.place, self.share):
            if layer is not None:
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        for kernel in [] if self.experts is None else self.experts.kernels:
            nn.init.kaiming_normal_(kernel, mode="fan_out", nonlinearity="relu")

    def squeezed(self, x: Tensor) -> Tensor:
        """Returns z, (N, m)."""
        return F.relu(self.norm(self.fc(self.pool(x))))

    def shares(self, x: Tensor) -> Tensor:
        """Returns a, (N, K)."""
        return self._shares(self.squeezed(x))

    def _shares(self, z: Tensor) -> Tensor:
        return torch.ones_like(z[:, :1]) if self.share is None else self.share(z).softmax(1)

    def gates(self, z: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the gates of inputs (N, groups, C_in / groups), outputs (N, groups, C / groups)
        and places of the kernel (N, places); 1 where there are none.
        """
        none = z.new_ones(1, dtype=dtype)
        channel, outputs, place = (
            none.expand(z.shape[0], 1) if layer is None else self.gate(layer(z)).to(dtype)
            for layer in (self.channel, self.filter, self.place)
        )
        channel = unflatten(channel, 1, (self.groups, -1))
        if self.filter is None:
            return channel, none.expand(z.shape[0], self.groups, 1), place
        return channel, unflatten(outputs, 1, (self.groups, -1)), place

    def forward(self, weight: Tensor, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Returns a weight for each image, or the weight and what each image adds to it."""
        z = self.squeezed(x)
        shares = self._shares(z).to(weight.dtype)
        if self.apart:  # the others are what they differ by, so that all of the first is there
            shares = torch.cat((torch.ones_like(shares[:, :1]), shares[:, 1:]), dim=1)
        others = weight[None][1:] if self.experts is None else self.experts.weight
        made = gated(weight, others, shares, *self.gates(z, weight.dtype))
        return (weight, made - weight) if self.apart else made

    def extra_repr(self) -> str:
        """Returns what is not seen of the layers."""
        return f"apart={self.apart}"
