"""Networks of a user: what `path/file.py:factory` names in the tests of the command line."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class Block(nn.Module):
    """relu(x + norm(conv(relu(conv(x)))))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, 11, 3, padding=1)
        self.conv2 = nn.Conv2d(11, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv2(F.relu(self.conv1(x)))) + x)


class Net(nn.Module):
    """A stem, two blocks of 32 channels, one of 48 at half the resolution, and a classifier."""

    def __init__(self, num_classes: int = 7) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, stride=2, padding=1)
        self.blocks = nn.Sequential(Block(32), Block(32))
        self.down = nn.Conv2d(32, 48, 3, stride=2, padding=1)
        self.late = Block(48)
        self.fc = nn.Linear(48, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.late(self.down(self.blocks(self.stem(x))))
        return self.fc(x.mean((2, 3)))


def net(num_classes: int = 7) -> Net:
    return Net(num_classes)


class Twice(Net):
    """Runs one block twice, so that one module serves two sites."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks[0](self.blocks[0](self.stem(x)))
        return self.fc(self.down(x).mean((2, 3)))


class Flat(nn.Module):
    """No convolution, no residual: nothing that a gate could go into."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3 * 40 * 24, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x.flatten(1))


class Decides(nn.Module):
    """Looks at values, as detectors do, so that it cannot be run on the meta device."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Net()

    def forward(self, x: Tensor) -> Tensor:
        y = self.net(x)
        return y if float(y.sum()) > 0 else -y


class Fixed(Net):
    """Takes one input size only."""

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[2:] != (40, 24):
            raise ValueError(f"input must be 40x24, not {tuple(x.shape[2:])}")
        return super().forward(x)
