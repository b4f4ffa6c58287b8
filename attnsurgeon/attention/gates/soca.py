"""Second-order channel attention: gates from the square root of the channels' covariance.

    S = square root of cov(x) over positions, by n steps of Newton and Schulz
    gate = sigmoid(W2 relu(W1 (mean over the rows of S)))
    y = x * gate

Dai et al., "Second-order Attention Network for Single Image Super-resolution", CVPR 2019,
https://openaccess.thecvf.com/content_CVPR_2019/html/Dai_Second-Order_Attention_Network_for_Single_Image_Super-Resolution_CVPR_2019_paper.html
"""

from __future__ import annotations

import torch
import torch.fx
from torch import Tensor, nn
from torch.nn import functional as F

from attnsurgeon.attention.checks import hidden_width
from attnsurgeon.attention.gradients import jit_traces
from attnsurgeon.attention.identity import Gate, native
from attnsurgeon.attention.pictures import multiplied
from attnsurgeon.attention.precision import wide, without_autocast
from attnsurgeon.attention.registry import mechanism
from attnsurgeon.attention.shapes import per_channel

# A trace below is a constant map's, which would be 0 / 0. It is a bound and no summand: exporters
# to ONNX drop a summand that small.
EPS = 1e-12


def step(a: Tensor, p: Tensor) -> Tensor:
    """Returns a (3I - p) / 2."""
    return torch.baddbmm(a, a, p, beta=1.5, alpha=-0.5)


def total(p: Tensor) -> Tensor:
    """Returns the sums (N,) of the diagonals of `p` (N, L, L)."""
    if jit_traces():  # old ONNX takes no diagonals
        place = torch.arange(p.shape[1], device=p.device)
        return (p * (place[:, None] == place).to(p.dtype)).sum((1, 2))
    return p.diagonal(dim1=1, dim2=2).sum(1)


@torch.fx.wrap
def root_of_covariance(x: Tensor, iterations: int) -> Tensor:
    """Returns (N, C): the means over the rows of the square root of cov(x), in float32 at least.

    Newton and Schulz start from A = cov / trace and go on with T = (3I - P) / 2, P = A at first and
    P T T then, so that A T T ... approaches the root of A. Only the row of means is multiplied by
    all T; the square matrices are P alone. And as A = B B' for the centred B, a row of A T T ... is
    a row of B, times what the steps make of B' B, times B': so the smaller of the two is used.
    """
    with without_autocast(x):
        x = x.flatten(2).to(wide(x))
        x = x - x.mean(2, keepdim=True)  # (N, C, M)
        channels, n = x.shape[1:]
        # An export for any resolution has to take the way that serves all of them.
        by_positions = not (jit_traces() or isinstance(n, torch.SymInt)) and n < channels
        p = x.transpose(-2, -1) @ x if by_positions else x @ x.transpose(-2, -1)
        trace = (total(p)[:, None, None] * (1 / n)).clamp(min=EPS)
        p = p * (1 / n / trace)
        row = (x if by_positions else p).mean(1, keepdim=True)
        for remaining in range(iterations, 0, -1):
            row = step(row, p)
            p = step(step(p, p), p) if remaining > 1 else p
        if by_positions:
            row = row @ x.transpose(-2, -1) * (1 / n / trace)
        return (row * trace.sqrt()).squeeze(1)


def count(channels: int, reduction: int) -> int:
    """Returns the number of parameters."""
    m = hidden_width(channels, reduction)
    return 2 * channels * m + m + channels


@mechanism(
    "soca",
    kind="gate",
    ranks=(1, 2, 3),
    bottleneck=("fc1",),
    placement="residual-branch",
    picture=multiplied("channel", how="the gate of each channel"),
    formula="2C(C//r) + C//r + C",
    count=count,
    identity=native("fc2", how="fc2 starts at zero and the gate is 2 * sigmoid, so it starts at 1"),
    constraints=("C >= reduction",),
    deviations=(
        "reduction is 8, the default of the authors' module; their networks set 16",
        "all positions are used, where the authors' code for super-resolution crops maps of "
        "1000 and more",
        "the trace is 1e-12 at least, so that a constant map and a map of one position have a "
        "gate, where the authors' code divides by zero",
        "a single iteration multiplies the covariance too; the authors' code forgets it there",
        "the root is computed in float32 also for half-precision values",
    ),
    spatial=False,
)
class SOCA(nn.Module):
    """Reweights each channel by a gate computed from how all channels vary together.

    Args:
        channels: C.
        rank: 1, 2 or 3.
        reduction: r, by which the hidden layer is narrower.
        iterations: steps of Newton and Schulz towards the square root.

    Shape:
        x (N, C, ...) -> (N, C, ...)
    """

    def __init__(
        self, channels: int, *, rank: int = 2, reduction: int = 8, iterations: int = 5
    ) -> None:
        super().__init__()
        m = hidden_width(channels, reduction)
        self.rank = rank
        self.iterations = iterations
        self.fc1 = nn.Linear(channels, m)
        self.fc2 = nn.Linear(m, channels)
        self.gate = Gate()

    def forward(self, x: Tensor) -> Tensor:
        """Returns `x` times its channel gates."""
        pooled = root_of_covariance(x, self.iterations).to(x.dtype)  # (N, C)
        gate = self.gate(self.fc2(F.relu(self.fc1(pooled)))).to(x.dtype)
        return x * per_channel(gate, self.rank)

    def extra_repr(self) -> str:
        """Returns what no submodule shows."""
        return f"iterations={self.iterations}"
