"""Iterative attentional feature fusion: a first fusion is the context of the second.

    w1 = sigmoid(context1(branch + shortcut))
    s = branch * w1 + shortcut * (1 - w1)
    w2 = sigmoid(context2(s))
    y = branch * w2 + shortcut * (1 - w2)

where each context is that of AFF, a local and a global branch.

Dai et al., "Attentional Feature Fusion", WACV 2021, https://arxiv.org/abs/2009.14082
"""

from __future__ import annotations

from torch import Tensor, nn

from attnsurgeon.attention.fusions import aff
from attnsurgeon.attention.identity import Gate, native
from attnsurgeon.attention.pictures import fused
from attnsurgeon.attention.registry import mechanism


def count(channels: int, reduction: int) -> int:
    """Returns the number of parameters."""
    return 2 * aff.count(channels, reduction)


@mechanism(
    "iaff",
    kind="fusion",
    ranks=(1, 2, 3),
    placement="late-residual-add",
    picture=fused("the second pass's weights of branch and shortcut, of each value"),
    formula="4 [Cm + m + 2m + mC + C + 2C], m = C//r",
    count=count,
    identity=native(
        "second.expand_norm",
        "second.global_expand_norm",
        how="the second pass's last norms start at zero and its weights are doubled, to 1",
    ),
    constraints=("C >= reduction",),
    deviations=(
        "both passes have their own local and global branch, as in the paper and the authors' "
        "MXNet code; their PyTorch port calls the first global branch again, which leaves the "
        "second one without gradient",
        "without AFF's factor 2, as in the authors' code",
        *aff.DEVIATIONS,
    ),
    unmoved=tuple(
        f"{context}.{name}" for context in ("first", "second") for name in aff.PASS_BIASES
    ),
    spatial=False,
)
class IAFF(nn.Module):
    """Replaces a residual addition by a weighed sum whose weights look at a weighed sum.

    Args:
        channels: C.
        rank: 1, 2 or 3.
        reduction: r, by which the hidden layers are narrower.

    Shape:
        branch (N, C, ...), shortcut (N, C, ...) -> (N, C, ...)
    """

    def __init__(self, channels: int, *, rank: int = 2, reduction: int = 16) -> None:
        super().__init__()
        self.first = aff.Context(channels, rank=rank, reduction=reduction)
        self.second = aff.Context(channels, rank=rank, reduction=reduction)
        self.gate = Gate()  # of the second pass: the first one's weights sum to 1 in any case

    def forward(self, branch: Tensor, shortcut: Tensor) -> Tensor:
        """Returns the two values weighed by the second pass."""
        total = branch + shortcut
        share = self.first(total).sigmoid().to(total.dtype)
        share = self.gate(self.second(branch * share + shortcut * (1 - share))).to(total.dtype)
        return branch * share + shortcut * (self.gate.gain - share)
