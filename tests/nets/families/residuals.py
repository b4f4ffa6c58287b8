"""Residual blocks: projections of every kind, resolutions of a branch's own, streams in pairs."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.nets.families.parts import Classifier, cbr

WIDTHS = (8, 16, 24)


def _blocks(block: type[nn.Module]) -> nn.Module:
    """A stem, one block at half the size and one at a quarter."""
    first, second, _ = WIDTHS
    parts = {"one": block(first), "down": cbr(first, second, 2), "two": block(second)}
    return Classifier(second, stem=cbr(3, first, 2), **parts)


def _steps(block: type[nn.Module], **args: str) -> nn.Module:
    """A stem, and two blocks that each step down and widen."""
    first, second, third = WIDTHS
    one, two = block(first, second, 2, **args), block(second, third, 2, **args)
    return Classifier(third, stem=cbr(3, first, 2), one=one, two=two)


# Resolutions of a branch's own.


class GatedBelow(nn.Module):
    """GhostNetV2's attention: the gate is computed at half the resolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.enter, self.gate = cbr(width, width), nn.Conv2d(width, width, 3, padding=1)
        self.conv, self.norm = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        gate = torch.sigmoid(self.gate(F.avg_pool2d(x, 2)))
        y = self.enter(x) * F.interpolate(gate, size=x.shape[2:])
        return x + self.norm(self.conv(y))


def gated_below() -> nn.Module:
    return _blocks(GatedBelow)


class Calibrated(nn.Module):
    """Liu et al.: a self-calibrated half beside a plain one; what is upsampled joins the input
    before it is squashed.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        half = width // 2
        self.enter1, self.enter2 = cbr(width, half, kernel=1), cbr(width, half, kernel=1)
        self.k1, self.k4 = cbr(half, half), cbr(half, half)
        self.k2 = nn.Sequential(nn.AvgPool2d(4), nn.Conv2d(half, half, 3, padding=1))
        self.k3 = nn.Conv2d(half, half, 3, padding=1)
        self.conv, self.norm = nn.Conv2d(width, width, 1), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        plain, half = self.k1(self.enter1(x)), self.enter2(x)
        gate = torch.sigmoid(half + F.interpolate(self.k2(half), half.shape[2:]))
        half = self.k4(self.k3(half) * gate)
        return F.relu(x + self.norm(self.conv(torch.cat((plain, half), 1))))


def calibrated() -> nn.Module:
    return _blocks(Calibrated)


class SmallU(nn.Module):
    """U2-Net's block: down inside and up again, joined by what stayed up."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.enter, self.above, self.below = (cbr(width, width) for _ in range(3))
        self.leave = cbr(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        above = self.above(x)
        below = F.interpolate(self.below(F.max_pool2d(above, 2)), size=above.shape[2:])
        return self.leave(torch.cat((below, above), 1)) + x


def small_u() -> nn.Module:
    return _blocks(SmallU)


class MixedBelow(nn.Module):
    """EfficientFormerV2's mixer: the whole branch works at half the resolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.down, self.mix = cbr(width, width, 2), cbr(width, width)
        self.conv, self.norm = nn.Conv2d(width, width, 1), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        y = F.interpolate(self.mix(self.down(x)), scale_factor=2.0)
        return x + self.norm(self.conv(F.gelu(y)))


def mixed_below() -> nn.Module:
    """Twice such a block, then three times down: the network goes on below."""
    blocks = {"one": MixedBelow(8), "two": MixedBelow(8)}
    return Classifier(24, stem=cbr(3, 8, 2), **blocks, down=cbr(8, 16, 2), last=cbr(16, 24, 2))


# Projections.


class ChannelNorm(nn.LayerNorm):
    """A LayerNorm over the channels of maps."""

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


NORMS = {
    "batch": nn.BatchNorm2d,
    "group": lambda width: nn.GroupNorm(4, width),
    "instance": lambda width: nn.InstanceNorm2d(width, affine=True),
    "layer": ChannelNorm,
}


class Projected(nn.Module):
    """A residual block whose shortcut has a convolution and a norm; DynUNet's with instances."""

    def __init__(self, inside: int, outside: int, stride: int, norm: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(outside, outside, 3, 1, 1, bias=False)
        self.conv3 = nn.Conv2d(inside, outside, 1, stride, bias=False)
        self.norm1, self.norm2, self.norm3 = (NORMS[norm](outside) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm2(self.conv2(F.leaky_relu(self.norm1(self.conv1(x)))))
        return F.leaky_relu(y + self.norm3(self.conv3(x)))


def projected(norm: str) -> nn.Module:
    return _steps(Projected, norm=norm)


class PooledShortcut(nn.Module):
    """ResNet-D with group norms: the shortcut is pooled, projected and normalised."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.enter = cbr(inside, outside, stride)
        self.conv, self.norm = nn.Conv2d(outside, outside, 3, 1, 1), nn.GroupNorm(4, outside)
        pool, conv = nn.AvgPool2d(stride, stride), nn.Conv2d(inside, outside, 1)
        self.short = nn.Sequential(pool, conv, nn.GroupNorm(4, outside))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv(self.enter(x))) + self.short(x))


def pooled_shortcut() -> nn.Module:
    return _steps(PooledShortcut)


class DualPath(nn.Module):
    """DPN's first unit: the shortcut is normalised, bent and projected; only a part is added."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.added, both = outside - 8, outside - 4
        conv = nn.Conv2d(inside, both, 1, stride)
        self.short = nn.Sequential(nn.BatchNorm2d(inside), nn.ReLU(), conv)
        self.enter = nn.Sequential(nn.BatchNorm2d(inside), nn.ReLU(), cbr(inside, 8, kernel=1))
        self.conv1, self.conv2 = cbr(8, 8, stride), nn.Conv2d(8, both, 1)

    def forward(self, x: Tensor) -> Tensor:
        y, short = self.conv2(self.conv1(self.enter(x))), self.short(x)
        made, dense = y[:, : self.added], y[:, self.added :]
        return torch.cat((short[:, : self.added] + made, short[:, self.added :], dense), 1)


def dual_path() -> nn.Module:
    return _steps(DualPath)


class GhostUnit(nn.Module):
    """A shortcut that is a separable convolution with an activation inside of it."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        depthwise = nn.Conv2d(inside, inside, 3, stride, 1, groups=inside, bias=False)
        self.short = nn.Sequential(
            *(depthwise, nn.BatchNorm2d(inside), nn.ReLU()),
            *(nn.Conv2d(inside, outside, 1, bias=False), nn.BatchNorm2d(outside)),
        )
        self.enter, self.middle = cbr(inside, 16, kernel=1), cbr(16, 16, stride)
        self.conv, self.norm = nn.Conv2d(16, outside, 1), nn.BatchNorm2d(outside)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(self.middle(self.enter(x)))) + self.short(x)


def ghost_units() -> nn.Module:
    return _steps(GhostUnit)


class Squeezed(nn.Module):
    """SqueezeNext's unit: the shortcut ends with an activation, as the branch does."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.short = cbr(inside, outside, stride, kernel=1)
        self.enter, self.middle = cbr(inside, 8, stride, kernel=1), cbr(8, 8)
        self.leave = cbr(8, outside, kernel=1)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.leave(self.middle(self.enter(x))) + self.short(x))


def squeezed() -> nn.Module:
    return _steps(Squeezed)


class ScaledShortcut(nn.Module):
    """PoolFormerV2's later blocks: the shortcut has a scale, and the branch mixes by pooling."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale1, self.scale2 = (nn.Parameter(torch.ones(width, 1, 1)) for _ in range(2))
        self.norm1, self.norm2 = nn.GroupNorm(1, width), nn.GroupNorm(1, width)
        self.pool = nn.AvgPool2d(3, 1, 1)
        self.fc1, self.fc2 = nn.Conv2d(width, 2 * width, 1), nn.Conv2d(2 * width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.scale1 * x + self.pool(self.norm1(x))
        return self.scale2 * x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


def scaled_shortcuts() -> nn.Module:
    return _blocks(ScaledShortcut)


# Streams in pairs.


def _function(width: int) -> nn.Module:
    return nn.Sequential(nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1))


class Reversible(nn.Module):
    """Gomez et al.: each half is added a function of the other, and can be taken away again."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.f, self.g = _function(width // 2), _function(width // 2)

    def forward(self, x: Tensor) -> Tensor:
        one, two = x.chunk(2, 1)
        one = one + self.f(two)
        return torch.cat((one, two + self.g(one)), 1)


def reversible() -> nn.Module:
    return _blocks(Reversible)


class Coupled(nn.Module):
    """i-RevNet's unit: it takes and gives a pair, and the two change places."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.f = _function(width)

    def forward(self, pair: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        one, two = pair
        return two, one + self.f(two)


class CoupledStage(nn.Module):
    """Splits a map, and runs three units."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.units = nn.ModuleList(Coupled(width // 2) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        one, two = x.chunk(2, 1)
        for unit in self.units:
            one, two = unit((one, two))
        return torch.cat((one, two), 1)


def coupled() -> nn.Module:
    return _blocks(CoupledStage)


# U2-NetP, with all its blocks.


class Rsu(nn.Module):
    """A U of some height inside a residual; a dilated one keeps its resolution."""

    def __init__(self, height: int, inside: int, dilated: bool = False) -> None:
        super().__init__()
        self.dilated, middle, outside = dilated, 4, 8
        spread = [2**i if dilated else 1 for i in range(height)]
        self.enter = cbr(inside, outside)
        self.down = nn.ModuleList(
            cbr(middle if i else outside, middle, spread=spread[i]) for i in range(height - 1)
        )
        self.bottom = cbr(middle, middle, spread=spread[-1] if dilated else 2)
        self.up = nn.ModuleList(
            cbr(2 * middle, middle if i else outside, spread=spread[i]) for i in range(height - 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        kept, y = [], x
        for i, down in enumerate(self.down):
            y = down(F.max_pool2d(y, 2, 2, ceil_mode=True) if i and not self.dilated else y)
            kept.append(y)
        y = self.bottom(y)
        for up, beside in zip(reversed(self.up), reversed(kept), strict=True):
            if y.shape != beside.shape:
                y = F.interpolate(y, size=beside.shape[2:], mode="bilinear")
            y = up(torch.cat((y, beside), 1))
        return y + x


class U2NetP(nn.Module):
    """Qin et al.: eleven such blocks, six down and five up, each of these with a score map."""

    def __init__(self) -> None:
        super().__init__()
        heights = [(7, False), (6, False), (5, False), (4, False), (4, True), (4, True)]
        self.encoder = nn.ModuleList(
            Rsu(height, 8 if i else 3, dilated) for i, (height, dilated) in enumerate(heights)
        )
        self.decoder = nn.ModuleList(Rsu(*of) for of in [(h, 16, d) for h, d in heights[4::-1]])
        self.side = nn.ModuleList(nn.Conv2d(8, 1, 3, padding=1) for _ in range(6))

    def forward(self, x: Tensor) -> list[Tensor]:
        kept, y = [], x
        for i, block in enumerate(self.encoder):
            y = block(F.max_pool2d(y, 2, 2) if i else y)
            kept.append(y)
        made = [kept.pop()]
        for block in self.decoder:
            beside = kept.pop()
            y = F.interpolate(made[-1], size=beside.shape[2:], mode="bilinear")
            made.append(block(torch.cat((y, beside), 1)))
        sizes = x.shape[2:]
        return [F.interpolate(side(y), size=sizes) for side, y in zip(self.side, made, strict=True)]
