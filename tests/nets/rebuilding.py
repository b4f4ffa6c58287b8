"""Blocks that rebuild themselves for deployment."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from tests.nets.blocks import C, conv_bn


class Branched(nn.Module):
    """RepVGG's block: three linear branches that become one convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.conv3, self.conv1 = conv_bn(C, C), conv_bn(C, C, 1)
        self.bn = nn.BatchNorm2d(C)

    def forward(self, x: Tensor) -> Tensor:
        if not hasattr(self, "conv3"):
            return F.relu(self.merged(x))
        return F.relu(self.conv3(x) + self.conv1(x) + self.bn(x))

    def reparameterize(self) -> None:
        kernel, bias = folded(self.conv3[0], self.conv3[1])
        point, more = folded(self.conv1[0], self.conv1[1])
        kernel = kernel + F.pad(point, (1, 1, 1, 1))
        assert self.bn.running_var is not None
        assert self.bn.running_mean is not None
        scale = self.bn.weight / (self.bn.running_var + self.bn.eps).sqrt()
        kernel[range(C), range(C), 1, 1] += scale
        bias = bias + more + self.bn.bias - self.bn.running_mean * scale
        self.merged = nn.Conv2d(C, C, 3, padding=1)
        self.merged.weight, self.merged.bias = nn.Parameter(kernel), nn.Parameter(bias)
        del self.conv3, self.conv1, self.bn


def folded(conv: nn.Module, bn: nn.Module) -> tuple[Tensor, Tensor]:
    """Kernel and bias of a convolution with its norm folded in."""
    assert isinstance(conv, nn.Conv2d)
    assert isinstance(bn, nn.BatchNorm2d)
    assert bn.running_var is not None
    assert bn.running_mean is not None
    scale = bn.weight / (bn.running_var + bn.eps).sqrt()
    return conv.weight * scale[:, None, None, None], bn.bias - bn.running_mean * scale


class Fusing(nn.Module):
    """conv-norm-relu that can fold its norm away."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inside, outside, 3, padding=1, bias=False)
        self.bn, self.act = nn.BatchNorm2d(outside), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(self.conv(x)))

    def forward_fuse(self, x: Tensor) -> Tensor:
        return self.act(self.conv(x))

    def fuse(self) -> None:
        kernel, bias = folded(self.conv, self.bn)
        self.conv.weight, self.conv.bias = nn.Parameter(kernel), nn.Parameter(bias)
        del self.bn
        self.forward = self.forward_fuse


class OfFusing(nn.Module):
    """A residual block whose layers fold their norms away."""

    def __init__(self) -> None:
        super().__init__()
        self.cv1, self.cv2 = Fusing(C, 7), Fusing(7, C)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.cv2(self.cv1(x))
