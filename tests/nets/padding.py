"""Convolutions that pad in their forward, in the forms in which they are published."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn

C = 16


class PadsByChild(nn.Conv2d):
    """Pads for a size known when it is built, by a module of its own."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, size: int = 32):
        super().__init__(inputs, outputs, kernel, stride, bias=False)
        out = math.ceil(size / stride)
        both = max((out - 1) * stride + kernel - size, 0)
        first, last = both // 2, both - both // 2
        self.pad = nn.ZeroPad2d((first, last, first, last)) if both else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = self.pad(x)
        return F.conv2d(
            x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups
        )


class PadsBySize(nn.Conv2d):
    """Pads as the size of its input asks for."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1):
        super().__init__(inputs, outputs, kernel, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h, w = x.size()[-2:]
        kernel_h, kernel_w = self.weight.size()[-2:]
        stride_h, stride_w = self.stride
        below = max((math.ceil(h / stride_h) - 1) * stride_h + kernel_h - h, 0)
        right = max((math.ceil(w / stride_w) - 1) * stride_w + kernel_w - w, 0)
        if below > 0 or right > 0:
            x = F.pad(x, [right // 2, right - right // 2, below // 2, below - below // 2])
        return F.conv2d(
            x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups
        )


class PadsOddly(nn.Conv2d):
    """Pads twice as far as it would have to."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1):
        super().__init__(inputs, outputs, kernel, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(F.pad(x, (2, 2, 2, 2)), self.weight, None, self.stride)


class Scales(nn.Conv2d):
    """Is a convolution and something more."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1):
        super().__init__(inputs, outputs, kernel, stride, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(inputs)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.norm(x))


class Padded(nn.Module):
    """A small network of one kind of these."""

    def __init__(self, conv: type[nn.Conv2d]) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, C, 1)
        self.first, self.second = conv(C, C, 3, 2), conv(C, C, 3)
        self.norms = nn.ModuleList(nn.BatchNorm2d(C) for _ in range(2))
        self.head = nn.Linear(C, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norms[0](self.first(self.stem(x))).relu()
        return self.head(self.norms[1](self.second(x)).relu().mean((2, 3)))
