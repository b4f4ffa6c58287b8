"""Weight excitation: the weight of a convolution is reweighted before it is used.

    lwe: m = mean of w over the kernel, gate = sigmoid(W2 relu(W1 m)) row by row, w' = w * gate
    mwe: M = (1 + eps) max|w|, w' = M * (ln(1 + w / M) - ln(1 - w / M)) / 2
    both: mwe of lwe

Quader et al., "Weight Excitation: Built-in Attention Mechanisms in Convolutional Neural Networks",
ECCV 2020, https://doi.org/10.1007/978-3-030-58577-8_6
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.fx
from torch import Tensor, nn
from torch.nn import functional as F

from attnsurgeon.attention.convs.geometry import Conv
from attnsurgeon.attention.identity import Blend, Gate, Identity, open_gates, zero
from attnsurgeon.attention.pictures import Picture, Seen, gates_of
from attnsurgeon.attention.pooling import Mean
from attnsurgeon.attention.registry import mechanism
from attnsurgeon.attention.shapes import per_channel
from attnsurgeon.errors import MechanismError

Form = Literal["lwe", "mwe", "both"]


def widths(conv: Conv, reduction: int) -> tuple[int, int]:
    """Returns the columns of the kernel's means, and the width of the hidden layer."""
    return conv.in_channels // conv.groups, max(conv.in_channels // reduction, 1)


def artanh(x: Tensor) -> Tensor:
    """Returns atanh(x), by logarithms for the classic ONNX exporter, which knows no other way."""
    if torch.onnx.is_in_onnx_export():
        return 0.5 * (torch.log1p(x) - torch.log1p(-x))
    return torch.atanh(x)


@torch.fx.wrap
def magnify(weight: Tensor, eps: float) -> Tensor:
    """Returns the weight with its large values made larger."""
    most = (1 + eps) * weight.abs().amax(tuple(range(weight.dim())))
    most = most.clamp(min=torch.finfo(weight.dtype).tiny)  # a weight of zeros stays one
    return most * artanh(weight / most)


class Local(nn.Module):
    """Location-based excitation: a gate for each pair of an output and an input channel.

    Shape:
        weight (C, C_in / groups, ...) -> the same
    """

    def __init__(self, conv: Conv, reduction: int) -> None:
        super().__init__()
        columns, m = widths(conv, reduction)
        self.rank = len(conv.kernel_size)
        self.pool = Mean(rank=self.rank)
        self.fc1 = nn.Linear(columns, m)
        self.fc2 = nn.Linear(m, columns)
        self.gate = Gate()

    def forward(self, weight: Tensor) -> Tensor:
        """Returns the weight times its gates."""
        gate = self.gate(self.fc2(F.relu(self.fc1(self.pool(weight)))))  # (C, C_in / groups)
        return weight * per_channel(gate.to(weight.dtype), self.rank)


class Magnitude(nn.Module):
    """Magnitude-based excitation: the further from zero, the more a value is enlarged."""

    def __init__(self, eps: float) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, weight: Tensor) -> Tensor:
        """Returns the enlarged weight."""
        return magnify(weight, self.eps)

    def extra_repr(self) -> str:
        """Returns eps."""
        return f"eps={self.eps:g}"


def gates(seen: Seen) -> dict[str, Tensor]:
    """Returns what the weight is multiplied by; where it is 0, what it would be close to that."""
    weight = seen.values[0]
    followed = gates_of(seen, ("both",))
    if followed:
        return {"weights": followed["both"]}
    ratio = seen.output / weight
    return {"weights": torch.where(weight == 0, torch.ones_like(ratio), ratio)}


def count(conv: Conv, form: Form, reduction: int) -> int:
    """Returns the number of parameters."""
    columns, m = widths(conv, reduction)
    return 0 if form == "mwe" else 2 * columns * m + m + columns


def start(module: nn.Module, replaced: nn.Module | None) -> nn.Module:
    """Opens the gates of the location, and blends the magnitude in."""
    assert isinstance(module, WE)
    if isinstance(module.local, Local):
        zero(module.local, "fc2")
        open_gates(module.local)
    if isinstance(module.magnitude, Magnitude):
        module.magnitude = Blend(module.magnitude)
    return module


@mechanism(
    "we",
    kind="weight",
    ranks=(1, 2, 3),
    bottleneck=("local.fc1",),
    placement="conv",
    picture=Picture(("weights",), "what each number of the weight is multiplied by", gates),
    formula="2 I m + m + I, I = C_in / groups, m = max(C_in//r, 1); 0 with form=mwe",
    count=count,
    identity=Identity(
        "native",
        "fc2 starts at zero and the gate is 2 * sigmoid, so it starts at 1; with form=mwe or both, "
        "the magnitude is blended in: w + g * (mwe(w) - w), learnable g = 0",
        start,
    ),
    constraints=("eps > 0",),
    limits=(
        "pruning: it reads the weight of a convolution, and a pruner follows only what the layers "
        "make of the map",
        "PT2E int8: it makes a convolution's weight anew, which torchao asks to be a parameter; "
        "`attnsurgeon.fold` first",
    ),
    deviations=(
        "as in the code of the authors' fork, the hidden layer of a grouped convolution follows "
        "from all of its input channels",
        "that code's mwe standardises the weight first, which is another method and is left out, "
        "and leaves out its first forward, which is a fault",
        "means are taken over kernels of any shape, where the authors' code pools squares",
        "in inference it costs nothing once it is folded into the weight",
    ),
    spatial=False,
)
class WE(nn.Module):
    """Reweights the weight of a convolution by its location, by its magnitude, or by both.

    Args:
        conv: the convolution whose weight it is.
        form: "lwe" by location, "mwe" by magnitude, "both" one after the other.
        reduction: r, by which the hidden layer is narrower than the input channels.
        eps: of "mwe", by how much the largest value stays below where it would become infinite.

    Shape:
        weight (C, C_in / groups, ...) -> the same
    """

    def __init__(
        self, conv: Conv, *, form: Form = "lwe", reduction: int = 16, eps: float = 0.1
    ) -> None:
        super().__init__()
        if eps <= 0:
            raise MechanismError(f"eps={eps:g} makes the largest weight infinite", "use eps=0.1")
        self.local = Local(conv, reduction) if form != "mwe" else nn.Identity()
        self.magnitude: nn.Module = Magnitude(eps) if form != "lwe" else nn.Identity()

    def forward(self, weight: Tensor) -> Tensor:
        """Returns the excited weight."""
        return self.magnitude(self.local(weight))
