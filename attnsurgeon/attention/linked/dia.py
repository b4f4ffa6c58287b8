"""Dense-and-implicit attention: one LSTM cell shared by all blocks of a stage makes their gates.

    s = mean(x)
    i, f, g, o = W_ih(s) + W_hh(h), with W(s) = W2 relu(W1 s)
    c' = sigmoid(f) * c + sigmoid(i) * tanh(g)
    h' = sigmoid(o) * sigmoid(c')
    y = x * h'

Huang et al., "DIANet: Dense-and-Implicit Attention Network", AAAI 2020,
https://arxiv.org/abs/1905.10671
"""

from __future__ import annotations

from torch import Tensor, nn

from attnsurgeon.attention.checks import hidden_width
from attnsurgeon.attention.identity import Identity, zero
from attnsurgeon.attention.linked.chain import Linked
from attnsurgeon.attention.pictures import multiplied
from attnsurgeon.attention.pooling import Mean
from attnsurgeon.attention.registry import mechanism
from attnsurgeon.attention.shapes import per_channel

State = tuple[Tensor, Tensor]


def bottleneck(channels: int, reduction: int) -> nn.Sequential:
    """Returns the two layers that stand for one matrix of an LSTM cell."""
    m = hidden_width(channels, reduction)
    return nn.Sequential(nn.Linear(channels, m), nn.ReLU(), nn.Linear(m, 4 * channels))


def count(channels: int, reduction: int) -> int:
    """Returns the number of parameters of a cell."""
    m = hidden_width(channels, reduction)
    return 2 * (channels * m + m + 4 * channels * m + 4 * channels)


def start(module: nn.Module, replaced: nn.Module | None) -> nn.Module:
    """Starts as the identity: all gates of the cell are 1/2, at every step."""
    assert isinstance(module, DIA)
    zero(module, "of_input.2", "of_hidden.2")
    module.gain = 4.0
    return module


@mechanism(
    "dia",
    kind="linked",
    ranks=(1, 2, 3),
    bottleneck=("of_input.0", "of_hidden.0"),
    placement="residual-branch",
    picture=multiplied("channel", how="h', the gate of each channel"),
    formula="2(5C(C//r) + C//r + 4C) for each stage",
    count=count,
    identity=Identity(
        "native",
        "the last layers start at zero, so that h' is 1/4 at every step, and the gate is 4 * h'",
        start,
    ),
    constraints=("C >= reduction", "all blocks of a stage have the same C"),
    deviations=(
        "reduction is 4 as in the authors' code, which is for CIFAR only",
        "as in the authors' code, h' is the gate itself, without a further sigmoid, and has a "
        "sigmoid where an LSTM has a tanh; a dropout that never reaches the output is left out",
        "state and cell start at zero in the first block of each stage and each forward",
        "in a stage of one block nothing is handed on, so that of_hidden.0.weight cannot learn",
    ),
    lighter="reduction=20 adds 2.8 million parameters to a ResNet-50 instead of 14 million",
    spatial=False,
    scope="stage",
    tied=True,
    limits=(
        "pruning: the state starts as zeros, through which a pruner sees no connection, so that it "
        "misses a layer in a stage of one block; let it ignore this module",
        'PT2E int8: the state goes through every rounding of a stage: under init="paper" the error '
        "is three times that of the bare network",
    ),
)
class DIA(Linked):
    """Reweights channels by the hidden state of an LSTM cell that walks through a stage.

    Args:
        channels: C.
        rank: 1, 2 or 3.
        reduction: r, by which the hidden layers are narrower.

    Shape:
        x (N, C, ...) -> (N, C, ...); the state is hidden and cell, (N, C) each
    """

    def __init__(self, channels: int, *, rank: int = 2, reduction: int = 4) -> None:
        super().__init__()
        self.rank = rank
        self.pool = Mean(rank=rank)
        self.of_input = bottleneck(channels, reduction)
        self.of_hidden = bottleneck(channels, reduction)
        self.gain = 1.0

    def step(self, x: Tensor, state: State | None) -> tuple[Tensor, State]:
        """Returns `x` times its channel gates, and hidden and cell state."""
        s = self.pool(x)  # (N, C)
        h = s.new_zeros(1, s.shape[1]) if state is None else state[0]
        i, f, g, o = (self.of_input(s) + self.of_hidden(h)).chunk(4, dim=1)
        cell = i.sigmoid() * g.tanh()
        if state is not None:
            cell = f.sigmoid() * state[1] + cell
        hidden = o.sigmoid() * cell.sigmoid()
        gate = hidden if self.gain == 1.0 else self.gain * hidden
        return x * per_channel(gate, self.rank), (hidden, cell)

    def extra_repr(self) -> str:
        """Returns the gain, the one thing that tells the two starts apart."""
        return f"gain={self.gain:g}"
