"""Attention gate: what comes up a decoder says which positions of a skip go through.

    a = sigmoid(w . relu(theta x + phi g))       at the resolution of g
    y = batchnorm(W (x * interpolate(a)))

where g is the value of the decoder before it is raised to the skip's resolution, and theta sees a
window of x for each position of g. With the raised value for g

    a = sigmoid(batchnorm(w . relu(batchnorm(theta x) + batchnorm(phi g))))
    y = x * a

Oktay et al., "Attention U-Net: Learning Where to Look for the Pancreas", MIDL 2018,
https://arxiv.org/abs/1804.03999
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch.fx
from torch import Tensor, nn
from torch.nn import functional as F

from attnsurgeon.attention.checks import hidden_width
from attnsurgeon.attention.gradients import eager
from attnsurgeon.attention.identity import BlendPair, Gate, Identity, first, open_gates, zero
from attnsurgeon.attention.norms import ONE_VALUE, BatchNorm
from attnsurgeon.attention.pictures import Picture, Seen, gates_of
from attnsurgeon.attention.registry import mechanism
from attnsurgeon.attention.resampling import resized_to
from attnsurgeon.attention.shapes import CONV

torch.fx.wrap("resized_to")  # it decides by sizes, which a trace does not know

Signal = Literal["coarser", "raised"]
Stride = int | tuple[int, ...]


@torch.fx.wrap
def at_least(x: Tensor, stride: Stride) -> Tensor:
    """Returns `x`, with zeros behind it along each axis that is shorter than a window."""
    rank = x.dim() - 2
    sides = (stride,) * rank if isinstance(stride, int) else stride
    if not eager() or all(x.shape[2 + i] >= sides[i] for i in range(rank)):
        return x
    missing = [max(sides[i] - x.shape[2 + i], 0) for i in reversed(range(rank))]
    return F.pad(x, [n for side in missing for n in (0, side)])


def window(stride: Stride, rank: int) -> int:
    """Returns how many positions of the skip there are for one of the signal."""
    return stride**rank if isinstance(stride, int) else math.prod(stride)


def count(
    channels: int,
    rank: int,
    signal: Signal,
    reduction: int,
    transform: bool,
    signal_channels: int | None,
    stride: Stride,
) -> int:
    """Returns the number of parameters."""
    c, s, m = channels, signal_channels or channels, hidden_width(channels, reduction)
    if signal == "raised":
        return (c * m + 3 * m) + (s * m + 3 * m) + (m + 3)
    gate = window(stride, rank) * c * m + (s * m + m) + (m + 1)
    return gate + (c * c + 3 * c if transform else 0)


def takes(signal: Signal) -> tuple[str, ...]:
    """Returns what `forward` is handed."""
    return "value", signal


def site_args(
    size: tuple[int, ...],
    signal: Signal,
    signal_channels: int | None = None,
    signal_size: tuple[int, ...] | None = None,
) -> Mapping[str, Any]:
    """Returns the channels of the signal, and by how much the skip is larger."""
    if signal == "raised" or signal_size is None:
        return {"signal_channels": signal_channels}
    each = tuple(max(round(s / n), 1) for s, n in zip(size, signal_size, strict=True))
    stride = each[0] if len(set(each)) == 1 else each
    return {"signal_channels": signal_channels, "stride": stride}


def mask(seen: Seen) -> Mapping[str, Tensor]:
    """Returns a of every position, also where the product goes through a convolution."""
    if seen.module.raised:
        return gates_of(seen, ("spatial",))
    return {"spatial": resized_to(seen.last("sigmoid"), seen.values[0])[:, 0]}


def start(module: nn.Module, replaced: nn.Module | None) -> nn.Module:
    """Starts as the identity: natively where a norm stands before the sigmoid, else by a blend."""
    assert isinstance(module, AttentionGate)
    if not module.raised:
        return BlendPair(module, first)
    zero(module, "score.1")
    open_gates(module)
    return module


@mechanism(
    "attention-gate",
    kind="gate",
    ranks=(1, 2, 3),
    bottleneck=("theta", "phi"),
    placement="later-skip",
    picture=Picture(("spatial",), "a, interpolated to the skip's resolution", mask),
    formula="4Cm + Sm + 2m + 1 + C^2 + 3C, m = C//r, for a signal of S channels and half the "
    "resolution, 8Cm at rank 3; signal=raised (C + S)m + 7m + 3",
    count=count,
    identity=Identity(
        "blend",
        "y = x + g * (mechanism(x, signal) - x), learnable g = 0; with signal=raised the norm "
        "before the sigmoid starts at zero and the gate is 2 * sigmoid, so it starts at 1",
        start,
    ),
    constraints=("C >= reduction",),
    limits=(
        "pruning: Torch-Pruning is still at work after ten seconds on a network of three blocks",
        "PT2E int8: torchao's quantizer takes the integers that positions are counted with for "
        "values, and raises",
    ),
    deviations=(
        "signal is coarser, as the authors have it; raised is the form in circulation for two "
        "dimensions, and MONAI's: the signal has been raised to the skip's resolution, and norms "
        "take the place of the transform",
        "reduction is 2, as the classes of the authors and of the others have it; the authors' "
        "networks are built with reduction=1",
        "the transform W, a 1x1 convolution and a batch norm, is in the authors' code and not in "
        "the paper's equations; transform=False leaves it out",
        "the authors' CT network has one more 1x1 convolution with norm and ReLU behind each gate, "
        "and one before the signal of the lowest; these are the network's",
        "the gate is the sigmoid of a score, as in the networks that the authors have for organs; "
        "softmax and softplus, other modes of their classes, are not built",
        "interpolation does not align corners: what the authors' code does in every torch since "
        "0.4, of their days",
        "rank 1 is not the authors': windows are spans",
        "a skip smaller than a window is padded with zeros; the authors' code raises there",
        "biases straight before a batch norm are kept to have the authors' parameters; they cannot "
        "learn while it uses batch statistics",
        ONE_VALUE,
    ),
    unmoved=("theta.0.bias", "phi.0.bias", "score.0.bias", "transform.0.bias"),
    site_args=site_args,
    takes=takes,
)
class AttentionGate(nn.Module):
    """Reweights each position of a skip by a gate that looks at it and at the decoder's value.

    Args:
        channels: C.
        rank: 1, 2 or 3.
        signal: coarser, the decoder's value before it is raised; or raised, what the skip meets.
        reduction: r, by which the hidden layer is narrower than C.
        transform: with the coarser signal: a 1x1 convolution and a norm follow.
        signal_channels: S, the channels of the signal; None for C.
        stride: with the coarser signal: by how much the skip is larger than the signal.

    Shape:
        x (N, C, ...), signal (N, S, ...), coarser of any size -> (N, C, ...)
    """

    def __init__(
        self,
        channels: int,
        *,
        rank: int = 2,
        signal: Signal = "coarser",
        reduction: int = 2,
        transform: bool = True,
        signal_channels: int | None = None,
        stride: int | tuple[int, ...] = 2,
    ) -> None:
        super().__init__()
        conv, m = CONV[rank], hidden_width(channels, reduction)
        s = signal_channels or channels
        self.raised = signal == "raised"
        self.stride = stride
        self.theta: nn.Module
        self.phi: nn.Module
        self.score: nn.Module
        self.transform: nn.Module = nn.Identity()
        if self.raised:
            self.theta = nn.Sequential(conv(channels, m, 1), BatchNorm(m))
            self.phi = nn.Sequential(conv(s, m, 1), BatchNorm(m))
            self.score = nn.Sequential(conv(m, 1, 1), BatchNorm(1))
        else:
            self.theta = conv(channels, m, stride, stride, bias=False)
            self.phi = conv(s, m, 1)
            self.score = conv(m, 1, 1)
            if transform:
                self.transform = nn.Sequential(conv(channels, channels, 1), BatchNorm(channels))
            self.apply(drawn)
        self.gate = Gate()

    def forward(self, x: Tensor, signal: Tensor) -> Tensor:
        """Returns `x` times the gate of each position, transformed where it is to be."""
        cells = self.theta(x if self.raised else at_least(x, self.stride))  # (N, m, ...)
        found = self.phi(signal)
        if not self.raised:
            found = resized_to(found, cells)
        gate = self.gate(self.score((cells + found).relu()))  # (N, 1, ...)
        if not self.raised:
            gate = resized_to(gate, x)
        return self.transform(x * gate.to(x.dtype)).to(x.dtype)


def drawn(layer: nn.Module) -> None:
    """Draws weights as the authors' networks do."""
    if isinstance(layer, BatchNorm):
        nn.init.normal_(layer.weight, 1.0, 0.02)
    elif (weight := getattr(layer, "weight", None)) is not None:
        nn.init.kaiming_normal_(weight)
