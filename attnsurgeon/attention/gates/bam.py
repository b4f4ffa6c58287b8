"""Bottleneck attention: a channel map and a dilated spatial map, multiplied into one gate.

    y = x * (1 + sigmoid(Mc(x) * Ms(x)))
    Mc = fc(relu(batchnorm(fc(mean(x)))))
    Ms = conv1(relu(batchnorm(conv3(relu(batchnorm(conv3(relu(batchnorm(conv1(x))))))))))

Park et al., "BAM: Bottleneck Attention Module", BMVC 2018, https://arxiv.org/abs/1807.06514
"""

from __future__ import annotations

from typing import Any

import torch
import torch.fx
from torch import Tensor, nn

from attnsurgeon.attention.checks import hidden_width
from attnsurgeon.attention.gradients import applied
from attnsurgeon.attention.identity import blend
from attnsurgeon.attention.norms import ONE_VALUE, BatchNorm
from attnsurgeon.attention.pictures import multiplied
from attnsurgeon.attention.pooling import Mean
from attnsurgeon.attention.registry import mechanism
from attnsurgeon.attention.shapes import CONV, CONVOLUTIONS, per_channel


class _Added(torch.autograd.Function):
    """x + x * gate, with the gradient of `x` in one pass where plain operations make three."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, gate: Tensor) -> Tensor:
        return torch.addcmul(x, x, gate)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        x, gate = ctx.saved_tensors
        return torch.addcmul(grad, grad, gate), grad * x


@torch.fx.wrap
def gated(x: Tensor, by_channel: Tensor, by_position: Tensor) -> Tensor:
    """Returns `x` plus its copy gated by two maps; of its size only the gate is kept."""
    gate = (by_channel * by_position).sigmoid_()  # in place: no product is needed again
    return applied(_Added, x, gate.to(x.dtype))


def count(channels: int, rank: int, reduction: int) -> int:
    """Returns the number of parameters."""
    m = hidden_width(channels, reduction)
    channel_map = (channels * m + m) + 2 * m + (m * channels + channels)
    spatial_map = (channels * m + m) + 2 * m + 2 * (3**rank * m * m + m + 2 * m) + (m + 1)
    return channel_map + spatial_map


@mechanism(
    "bam",
    kind="gate",
    ranks=(1, 2, 3),
    placement="downsample",
    picture=multiplied("both", how="1 + the gate of channel and position"),
    formula="[2Cm + m + C + 2m] + [Cm + m + 2m + 2(9m^2 + m + 2m) + m + 1], m = C//r; "
    "3m^2 for 9m^2 at rank 1, 27m^2 at rank 3",
    count=count,
    identity=blend(),
    constraints=("C >= reduction",),
    deviations=(
        "the maps are multiplied, as in the code published by the authors; the paper adds them",
        "pooling covers the whole map, also one that is not square, where the authors' code "
        "pools squares of side H",
        "the biases straight before a batch norm are kept to have the authors' parameters; they "
        "cannot learn while it uses batch statistics",
        "ranks 1 and 3 are not the authors': the 3x3 kernels become 3 or 3x3x3, dilated along "
        "every axis",
        ONE_VALUE,
    ),
    unmoved=("fc1.bias", "reduce.0.bias", "dilate.0.bias", "dilate.3.bias"),
)
class BAM(nn.Module):
    """Adds to `x` itself a copy gated by channel and position at once.

    Args:
        channels: C.
        rank: 1, 2 or 3.
        reduction: r, by which both maps are computed with fewer channels.
        dilation: of the two 3x3 convolutions.

    Shape:
        x (N, C, ...) -> (N, C, ...)
    """

    def __init__(
        self, channels: int, *, rank: int = 2, reduction: int = 16, dilation: int = 4
    ) -> None:
        super().__init__()
        m = hidden_width(channels, reduction)
        self.rank = rank
        self.pool = Mean(rank=rank)
        self.fc1 = nn.Linear(channels, m)
        self.norm = BatchNorm(m)
        self.fc2 = nn.Linear(m, channels)

        def dilated() -> list[nn.Module]:
            conv = CONV[rank](m, m, 3, padding=dilation, dilation=dilation)
            return [conv, BatchNorm(m), nn.ReLU()]

        self.reduce = nn.Sequential(CONV[rank](channels, m, 1), BatchNorm(m), nn.ReLU())
        self.dilate = nn.Sequential(*dilated(), *dilated())
        self.conv = CONV[rank](m, 1, 1)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Starts as the authors' networks do."""
        for module in self.modules():
            if isinstance(module, CONVOLUTIONS):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        """Returns `x` plus its gated copy."""
        by_channel = self.fc2(self.norm(self.fc1(self.pool(x))).relu())  # (N, C)
        by_position = self.conv(self.dilate(self.reduce(x)))  # (N, 1, ...)
        return gated(x, per_channel(by_channel, self.rank), by_position)
