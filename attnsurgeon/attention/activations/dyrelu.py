"""Dynamic ReLU: the largest of two lines, whose slopes and heights each image sets.

    t = 2 sigmoid(W2 relu(W1 mean(x))) - 1
    a_1 = 1 + t_1, a_2 = t_2, b_1 = t_3 / 2, b_2 = t_4 / 2
    y = max over j of a_j x + b_j

Chen et al., "Dynamic ReLU", ECCV 2020, https://arxiv.org/abs/2003.10027
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import reduce
from typing import Any, Literal

import torch
import torch.fx
from torch import Tensor, nn
from torch.nn import functional as F

from attnsurgeon.attention.checks import hidden_width
from attnsurgeon.attention.gradients import applied, equal_
from attnsurgeon.attention.identity import replacing
from attnsurgeon.attention.pictures import Picture, Seen
from attnsurgeon.attention.pooling import Mean
from attnsurgeon.attention.registry import mechanism
from attnsurgeon.attention.shapes import per_channel, unflatten

Form = Literal["A", "B"]
HEIGHT = 0.5  # of the authors: how far a line may be lifted, where its slope may change by 1


def _value(x: Tensor, slope: Tensor, height: Tensor) -> Tensor:
    """Returns a line's values, in two passes and one tensor."""
    return (x * slope).add_(height)


class _Highest(torch.autograd.Function):
    """The largest of some lines, of which the backward works out again which one that is."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, *lines: Tensor) -> Tensor:
        return reduce(torch.maximum, [_value(x, *line) for line in _pairs(lines)])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        x, *lines = ctx.saved_tensors
        values = [_value(x, *line).detach() for line in _pairs(lines)]
        top = reduce(torch.maximum, values)
        won = [equal_(value, top) for value in values]  # 1 or 0; equal lines share alike
        total = reduce(torch.add, won)
        parts = [one.div_(total) * grad for one in won]
        slopes = [slope for slope, _ in _pairs(lines)]
        return (
            reduce(torch.add, [part * slope for part, slope in zip(parts, slopes, strict=True)]),
            *((part * x).sum_to_size(lines[0].shape) for part in parts),
            *(part.sum_to_size(lines[0].shape) for part in parts),
        )


def _pairs(lines: Sequence[Tensor]) -> Iterable[tuple[Tensor, Tensor]]:
    """Returns slope and height of each line."""
    number = len(lines) // 2
    return zip(lines[:number], lines[number:], strict=True)


@torch.fx.wrap
def highest(x: Tensor, *lines: Tensor) -> Tensor:
    """Returns the largest of some lines at each value of `x` (N, C, ...).

    Args:
        x: where the lines are looked at.
        lines: the slopes, and as many heights, which broadcast.
    """
    return applied(_Highest, x, *lines)


def shares(seen: Seen) -> dict[str, Tensor]:
    """Returns at how many of a channel's positions each line is the largest, (N, lines, C)."""
    x = seen.values[0]
    lines = torch.stack([a * x + b for a, b in seen.module.lines(x)], dim=1).flatten(3)
    largest = F.one_hot(lines.argmax(1), lines.shape[1]).to(x.dtype)  # (N, C, P, lines)
    return {"branches": largest.mean(2).transpose(1, 2)}


def count(channels: int, form: Form, reduction: int, lines: int) -> int:
    """Returns the number of parameters."""
    m = hidden_width(channels, reduction)
    made = 2 * lines * (channels if form == "B" else 1)
    return channels * m + m + m * made + made


@mechanism(
    "dyrelu",
    kind="activation",
    ranks=(1, 2, 3),
    placement="activation",
    bottleneck=("fc1",),
    picture=Picture(
        ("branches",), "at how many of a channel's positions each line is the largest", shares
    ),
    formula="Cm + m + 4Cm + 4C, m = C//r; Cm + m + 4m + 4 with form=A",
    count=count,
    identity=replacing(
        base=lambda replaced: nn.ReLU(),
        how="y = old(x) + g * (mechanism(x) - old(x)), learnable g = 0; old is the activation "
        "that was there, or ReLU where the mechanism stands alone",
    ),
    constraints=("C >= reduction",),
    deviations=(
        "reduction is 8, as in the paper; copies in circulation have 4",
        "its authors have published no code of it alone: compared with a third party's",
        "form C, whose lines also differ by position, is not built",
        "ranks 1 and 3 are not the authors': the mean runs over all positions",
    ),
    spatial=False,
)
class DyReLU(nn.Module):
    """Replaces a ReLU by the largest of some lines that follow from the image.

    Args:
        channels: C.
        rank: 1, 2 or 3.
        form: B, each channel has lines of its own, or A, all have the same.
        reduction: r, by which the hidden layer is narrower.
        lines: of which the largest is taken.

    Shape:
        x (N, C, ...) -> (N, C, ...)
    """

    def __init__(
        self,
        channels: int,
        *,
        rank: int = 2,
        form: Form = "B",
        reduction: int = 8,
        lines: int = 2,
    ) -> None:
        super().__init__()
        m = hidden_width(channels, reduction)
        self.rank = rank
        self.number = lines
        self.pool = Mean(rank=rank)
        self.fc1 = nn.Linear(channels, m)
        self.fc2 = nn.Linear(m, 2 * lines * (channels if form == "B" else 1))

    def lines(self, x: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Returns slope and height of each line, views that broadcast."""
        t = 2 * self.fc2(F.relu(self.fc1(self.pool(x)))).sigmoid() - 1
        parts = unflatten(t.to(x.dtype), 1, (-1, 2 * self.number)).unbind(2)  # each (N, C or 1)
        found = []
        for j in range(self.number):
            slope, height = parts[j], HEIGHT * parts[self.number + j]
            slope = 1 + slope if j == 0 else slope
            found.append((per_channel(slope, self.rank), per_channel(height, self.rank)))
        return found

    def forward(self, x: Tensor) -> Tensor:
        """Returns the largest line at each value."""
        slopes, heights = zip(*self.lines(x), strict=True)
        return highest(x, *slopes, *heights)

    def extra_repr(self) -> str:
        """Returns the number of lines."""
        return f"lines={self.number}"
