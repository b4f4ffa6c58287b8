"""Blocks whose forward does what a graph cannot hold, or what the recorder has to survive."""

from __future__ import annotations

import copy
import math
import random

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.nets.blocks import Plain


class DecidesByData(Plain):
    """The sign of the data decides: nothing but a real run can follow it."""

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(out + x) if out.mean() > -1e9 else out


class DecidesBySize(Plain):
    """The size decides: a rewritten forward would be wrong at another size."""

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if x.shape[2] > 8:
            out = F.relu(out)
        return F.relu(out + x)


class Doubled(torch.autograd.Function):
    """y = 2x, with a gradient of its own."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:  # type: ignore[override]
        return x * 2

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:  # type: ignore[override]
        return grad * 2


class OwnFunction(Plain):
    """A custom autograd function in the middle of the branch."""

    def forward(self, x: Tensor) -> Tensor:
        out = Doubled.apply(F.relu(self.bn1(self.conv1(x))))
        return F.relu(self.bn2(self.conv2(out)) + x)


class Remembers(Plain):
    """Leaves its last map on itself, for others to look at."""

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        self.last = out
        return F.relu(out + x)


class Collects(Plain):
    """Puts its last map into a list that it keeps."""

    def __init__(self) -> None:
        super().__init__()
        self.maps: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        self.maps.append(out)
        return F.relu(out + x)


class SkipsAtRandom(Plain):
    """In training, Python's own dice decide whether the block runs."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training and random.random() < 0.5:
            return x
        return super().forward(x)


class Ungraded(Plain):
    """The branch is computed without gradients."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)) + x)


class FullPrecision(Plain):
    """Autocast is switched off around the branch."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            out = F.relu(self.bn1(self.conv1(x.float())))
        return F.relu(self.bn2(self.conv2(out)) + x)


class DeviceOfParameters(Plain):
    """Asks its parameters for device and dtype, as Hugging Face's models do."""

    def forward(self, x: Tensor) -> Tensor:
        like = next(self.parameters())
        shift = torch.zeros(x.shape[1], 1, 1, device=like.device, dtype=like.dtype)
        return super().forward(x + shift)


class TellsTypes(Plain):
    """isinstance decides about a constant, which leaves no trace in the operations."""

    def forward(self, x: Tensor) -> Tensor:
        scale = 0.5 if isinstance(x, Tensor) else 2.0
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(out * scale + x)


class Tries(Plain):
    """Catches what a child raises on meta, and would go another way there."""

    def __init__(self) -> None:
        super().__init__()
        self.picky = Picky()

    def forward(self, x: Tensor) -> Tensor:
        try:
            out = self.picky(x)
        except RuntimeError:
            out = x * 3
        return super().forward(out)


class Picky(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * math.ceil(float(x.detach().abs().max()))


class SilentSwitch(Plain):
    """A train() that returns nothing, the most common mistake in overriding it."""

    def train(self, mode: bool = True) -> None:  # type: ignore[override]
        super().train(mode)
        self.bn1.eval()


class OwnCopy(Plain):
    """Copies itself its own way."""

    def __deepcopy__(self, memo):
        made = type(self).__new__(type(self))
        memo[id(self)] = made
        made.__dict__.update({k: copy.deepcopy(v, memo) for k, v in self.__dict__.items()})
        return made


class AnswersAll(Plain):
    """Has an answer, None, for every attribute that it lacks."""

    def __getattr__(self, name: str):
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name.startswith("__"):
                raise
            return None


class DefaultTuple(Plain):
    """A default with commas in it, in a forward that has two modes."""

    def forward(self, x: Tensor, factors: tuple[float, ...] = (0.5, 2.0)) -> Tensor:
        out = F.dropout(F.relu(self.bn1(self.conv1(x))), 0.3, training=self.training)
        return F.relu(self.bn2(self.conv2(out * factors[0])) * factors[1] + x)


class Counting(Plain):
    """Counts its calls in a buffer."""

    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.calls.add_(1)
        return super().forward(x)


class Replaced(Plain):
    """Another forward has been put on the object itself."""

    def __init__(self) -> None:
        super().__init__()
        self.forward = self.another

    def another(self, x: Tensor) -> Tensor:
        return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))) + self.down(x))
