"""Deep connected attention: each block's attention is also given what the one before it found.

    inner="se", "ge":
        z = mean(x), or relu(layernorm(a mean(x) + b t + d)) with t from the place before
        gate = sigmoid(W2 relu(W1 z)), or sigmoid(z) for "ge"
        y = x * gate
        t' = mean(x) * gate
    inner="cbam", with (u, v) from the place before:
        z_k = pool_k(x), or relu(layernorm(a pool_k(x) + b pool_k(u))), for mean and maximum
        u' = x * sigmoid(mlp(z_mean) + mlp(z_max))
        m = planes(u'), or relu(batchnorm(p planes(u') + q planes(v at this size)))
        y = v' = u' * sigmoid(batchnorm(conv_7(m))), where planes are maximum and mean over C
    where C changes, t and u first pass through relu(norm(W t + e))

Ma et al., "DCANet: Learning Connected Attentions for Convolutional Neural Networks", ICME 2021,
https://arxiv.org/abs/2007.05099
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
import torch.fx
from torch import Tensor, nn
from torch.nn import functional as F

from attnsurgeon.attention.checks import are_tokens, hidden_width
from attnsurgeon.attention.identity import Gate, Identity, open_gates, zero
from attnsurgeon.attention.kernels import around, kernel_along
from attnsurgeon.attention.linked.chain import Linked
from attnsurgeon.attention.norms import ONE_VALUE, BatchNorm
from attnsurgeon.attention.pictures import multiplied
from attnsurgeon.attention.pooling import Max, Mean
from attnsurgeon.attention.registry import mechanism
from attnsurgeon.attention.resampling import pool_to
from attnsurgeon.attention.shapes import CONV, per_channel
from attnsurgeon.errors import MechanismError

Inner = Literal["se", "cbam", "ge"]
KERNEL_SIZE = 7


@torch.fx.wrap
def at_size_of(x: Tensor, like: Tensor) -> Tensor:
    """Returns `x` (N, C, ...) with its map averaged to the size of that of `like`."""
    # An exported graph is to serve all sizes, so it may not depend on whether these are equal.
    if not torch.compiler.is_exporting() and x.shape[2:] == like.shape[2:]:
        return x
    return pool_to(x, tuple(like.shape[2:]))


class Mix(nn.Module):
    """relu(layernorm(a * own + b * before + d)), with one weight for each of the two vectors.

    Shape:
        own, before (..., C) -> (..., C)
    """

    def __init__(self, channels: int, *, bias: bool) -> None:
        super().__init__()
        self.weigh = nn.Linear(2, 1, bias=bias)
        self.norm = nn.LayerNorm(channels)

    def forward(self, own: Tensor, before: Tensor) -> Tensor:
        """Returns the mixture."""
        both = torch.stack((own, before), dim=-1)
        return F.relu(self.norm(self.weigh(both).squeeze(-1)))


class VectorLink(nn.Module):
    """What an SE or GE makes of the vector that the place before handed on."""

    def __init__(self, previous: int, channels: int, rank: int) -> None:
        super().__init__()
        self.translate: nn.Module = nn.Identity()
        if previous != channels:
            layers = nn.Linear(previous, channels), nn.LayerNorm(channels), nn.ReLU()
            self.translate = nn.Sequential(*layers)
        self.mix = Mix(channels, bias=True)
        nn.init.normal_(self.mix.weigh.weight, std=math.sqrt(2))

    def forward(self, own: Tensor, before: Tensor) -> Tensor:
        """Returns the means of this place mixed with what was handed on."""
        return self.mix(own, self.translate(before))


class Vectors(nn.Module):
    """SE, or GE where there is no hidden layer, given a vector of the place before.

    Shape:
        x (N, C, ...), before (N, previous) -> x times its gates, vector (N, C)
    """

    def __init__(self, channels: int, rank: int, hidden: int, link: Any) -> None:
        super().__init__()
        self.rank = rank
        self.pool = Mean(rank=rank)
        self.link = link
        self.fc1 = nn.Linear(channels, hidden) if hidden else nn.Identity()
        self.fc2 = nn.Linear(hidden, channels) if hidden else nn.Identity()
        self.act = nn.ReLU() if hidden else nn.Identity()
        self.gate = Gate()

    def forward(self, x: Tensor, before: Tensor | None) -> tuple[Tensor, Tensor]:
        """Returns the output and what is handed on."""
        own = self.pool(x)
        z = own if self.link is None or before is None else self.link(own, before)
        gate = self.gate(self.fc2(self.act(self.fc1(z)))).to(x.dtype)
        return x * per_channel(gate, self.rank), own * gate


class MapLink(nn.Module):
    """What a CBAM makes of the two maps that the place before handed on."""

    def __init__(self, previous: int, channels: int, rank: int) -> None:
        super().__init__()
        self.translate: nn.Module = nn.Identity()
        if previous != channels:
            conv = CONV[rank](previous, channels, 1)
            nn.init.zeros_(conv.get_parameter("bias"))
            self.translate = nn.Sequential(conv, BatchNorm(channels), nn.ReLU())
        self.mix = Mix(channels, bias=False)
        self.own = nn.Parameter(torch.ones(1))
        self.before = nn.Parameter(torch.zeros(1))
        self.norm = BatchNorm(2)

    def planes(self, own: Tensor, before: Tensor) -> Tensor:
        """Returns the planes of this place mixed with those of the place before."""
        return F.relu(self.norm(self.own * own + self.before * before))


class Maps(nn.Module):
    """CBAM, given two maps of the place before: after its channel gate, and its output.

    The output is handed on as its two factors: the tensor that is returned is the network's, whose
    block may add its shortcut to it in place.

    Shape:
        x (N, C, ...), u (N, previous, ...) and its gate (N, 1, ...) of any size -> x times its
        gates, the next u and gate
    """

    def __init__(self, channels: int, rank: int, hidden: int, link: Any) -> None:
        super().__init__()
        self.rank = rank
        self.pools = nn.ModuleList((Mean(rank=rank), Max(rank=rank)))
        self.link = link
        self.fc1 = nn.Linear(channels, hidden)
        self.fc2 = nn.Linear(hidden, channels)
        over_channels: dict[str, Any] = {"axes": (1,), "keepdim": True}
        self.over_channels = nn.ModuleList((Max(**over_channels), Mean(**over_channels)))
        k = kernel_along(KERNEL_SIZE, rank)
        self.conv = CONV[rank](2, 1, k, padding=around(k), bias=False)
        self.norm = BatchNorm(1, momentum=0.01)
        self.gate = Gate()
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Starts as the authors' networks do."""
        nn.init.zeros_(self.fc1.bias)
        nn.init.zeros_(self.fc2.bias)
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out")
        nn.init.zeros_(self.norm.weight)

    def forward(
        self, x: Tensor, before: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Returns the output and what is handed on."""
        pooled = self.pooled(x)
        if self.link is not None and before is not None:
            pooled = self.link.mix(pooled, self.pooled(self.link.translate(before[0])))
        by_channel = self.gate(self.fc2(F.relu(self.fc1(pooled))).sum(0))
        u = x * per_channel(by_channel, self.rank).to(x.dtype)
        planes = self.planes(u)
        if self.link is not None and before is not None:
            output = before[0] * before[1]
            planes = self.link.planes(planes, self.planes(at_size_of(output, u)))
        by_position = self.gate(self.norm(self.conv(planes))).to(x.dtype)
        return u * by_position, (u, by_position)

    def pooled(self, x: Tensor) -> Tensor:
        """Returns the mean and the maximum of each channel, (2, N, C)."""
        return torch.stack([pool(x) for pool in self.pools])

    def planes(self, x: Tensor) -> Tensor:
        """Returns the maximum and the mean over the channels, (N, 2, ...)."""
        return torch.cat([plane(x) for plane in self.over_channels], dim=1)


class Blended(Linked):
    """y = x + g * (inner(x) - x), and the state that the inner attention hands on; g starts at 0.

    Args:
        inner: linked attention that has nothing to zero.
    """

    def __init__(self, inner: Linked) -> None:
        super().__init__()
        self.inner = inner
        self.g = nn.Parameter(torch.zeros(1))

    def step(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Returns the blend and the state."""
        y, state = self.inner.step(x, state)
        return torch.lerp(x, y.to(x.dtype), self.g.to(x.dtype)), state


def link_count(channels: int, inner: Inner, previous: int | None) -> int:
    """Returns the number of parameters of the link layers."""
    if previous is None:
        return 0
    translate = previous * channels + 3 * channels if previous != channels else 0
    return translate + 2 * channels + (8 if inner == "cbam" else 3)


def count(
    channels: int,
    rank: int,
    inner: Inner,
    reduction: int,
    previous_channels: int | None,
    idle_channels: int | None,
) -> int:
    """Returns the number of parameters."""
    links = sum(link_count(channels, inner, p) for p in (previous_channels, idle_channels))
    if inner == "ge":
        return links
    m = hidden_width(channels, reduction)
    by_position = 2 * math.prod(kernel_along(KERNEL_SIZE, rank)) + 2 if inner == "cbam" else 0
    return links + 2 * channels * m + m + channels + by_position


def site_args(
    size: tuple[int, ...],
    rank: int,
    inner: Inner,
    previous_channels: int | None,
    source_channels: int | None = None,
) -> dict[str, int | None]:
    """Returns the channels of the place before, or at the first place those of the block's input.

    Args:
        size, rank: of the site.
        inner: the attention itself.
        previous_channels: C of the place before; None at the first place.
        source_channels: C of the value that the site's block starts from, where that is known.
    """
    if are_tokens(size, rank) and inner == "cbam":
        raise MechanismError(
            "here are tokens, and cbam needs a map of positions", "use inner='se' or inner='ge'"
        )
    if previous_channels is None:
        return {} if source_channels is None else {"idle_channels": source_channels}
    return {"previous_channels": previous_channels}


def start(module: nn.Module, replaced: nn.Module | None) -> nn.Module:
    """Starts as the identity: natively where there is a last layer, else by a blend."""
    assert isinstance(module, DCA)
    module.idle = None
    attend = module.attend
    if module.inner == "ge":
        return Blended(module)
    zero(attend, "fc2", *(["norm"] if module.inner == "cbam" else []))
    open_gates(attend)
    return module


@mechanism(
    "dca",
    kind="linked",
    ranks=(1, 2, 3),
    bottleneck=("attend.fc1",),
    placement="block-branch",
    picture=multiplied(
        "channel",
        how="the gate of each channel; with inner='cbam' also that of each position, as spatial",
    ),
    formula="that of the inner SE or CBAM, 0 for GE; + 2C + 3 (CBAM 2C + 8) for a link, "
    "+ PC + 3C where the place before has P channels, not C",
    count=count,
    identity=Identity(
        "native",
        "the last layers of the inner attention start at zero and its gates are 2 * sigmoid; "
        "inner='ge' has nothing to zero: y = x + g * (mechanism(x) - x), learnable g = 0",
        start,
    ),
    constraints=("C >= reduction, but for inner='ge'", "inner='cbam' needs a map of positions"),
    limits=("pruning: a pruner takes the weights that a link has in all for those of channels",),
    deviations=(
        "all as in the authors' code; the 28.65 and 26.12 million parameters that they print for "
        "SE and GE in a ResNet-50 are not those of the code, 30.90 and 28.37 million",
        "in the authors' networks the first place has link layers too, from the channels of its "
        "block's input, which nothing ever reaches; they are built for the authors' count, "
        "cannot learn, and are left out by idle_channels=none and by the identity start",
        "the bias of the mixture of the two vectors is taken away again by the layer norm; it is "
        "kept for the authors' count and cannot learn",
        "with inner='cbam' the bias straight before the batch norm of a translation cannot learn "
        "while the norm uses batch statistics",
        "with inner='cbam' the norm of the mixed planes starts at weight one; in the authors' "
        "networks it starts at zero before a ReLU, from where neither it nor what it feeds can "
        "ever learn",
        "with inner='cbam' a map of another size is averaged to the size at hand, as in the "
        "authors' code where the one divides the other, and also where it does not",
        "with inner='cbam' a full map is handed on, which activation checkpointing keeps",
        "reduction is 16 as in the authors' ResNets; in their MobileNets it is 8, and biases that "
        "a norm takes away are left out",
        "the authors' code links GC blocks and SK as well, each in a way of its own; these "
        "are not built",
        "ranks 1 and 3 are not the authors': the kernel is 7 long, or (3, 7, 7), as clips have few "
        "frames",
        ONE_VALUE,
    ),
    unmoved=("attend.link.translate.0.bias",),
    inert=("attend.link.mix.weigh.bias",),
    spatial=False,
    site_args=site_args,
    scope="network",
)
class DCA(Linked):
    """Reweights by an SE, CBAM or GE that is also given what the one before it found.

    Args:
        channels: C.
        rank: 1, 2 or 3.
        inner: the attention itself: "se", "cbam", or "ge" for a gate from the channel's own mean.
        reduction: r, by which the hidden layer is narrower; not for "ge".
        previous_channels: C of the place before; None where there is none, so that there are no
            link layers.
        idle_channels: C for which to have the link layers of the authors' first place, which are
            never used.

    Shape:
        x (N, C, ...) -> (N, C, ...); the state is (N, C) for "se" and "ge", for "cbam" a map and
        its gate
    """

    def __init__(
        self,
        channels: int,
        *,
        rank: int = 2,
        inner: Inner = "se",
        reduction: int = 16,
        previous_channels: int | None = None,
        idle_channels: int | None = None,
    ) -> None:
        super().__init__()
        self.inner = inner
        attend, link = (Maps, MapLink) if inner == "cbam" else (Vectors, VectorLink)
        m = 0 if inner == "ge" else hidden_width(channels, reduction)
        before = link(previous_channels, channels, rank) if previous_channels else None
        self.attend: Any = attend(channels, rank, m, before)
        self.idle = link(idle_channels, channels, rank) if idle_channels else None
        if self.idle is not None:  # nothing reaches it: who waits for its gradient waits forever
            self.idle.requires_grad_(False)

    def step(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Returns `x` times its gates, and what the next place is given."""
        return self.attend(x, state)
