"""The smallest residual network that has a site for every mechanism."""

from __future__ import annotations

from torch import Tensor, nn


class Bottleneck(nn.Module):
    """A residual block wide enough for every mechanism."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(64, 64, 1, bias=False), nn.BatchNorm2d(64)
        self.conv2 = nn.Conv2d(64, 64, 3, padding=1, bias=False)
        self.bn2, self.relu = nn.BatchNorm2d(64), nn.ReLU(inplace=True)
        self.conv3, self.bn3 = nn.Conv2d(64, 64, 1, bias=False), nn.BatchNorm2d(64)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn3(self.conv3(self.relu(self.bn2(self.conv2(y)))))
        return (y + x).relu()


class Stages(nn.Module):
    """Two stages of two blocks, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 64, 3, stride=2, padding=1)
        self.stage1 = nn.Sequential(Bottleneck(), Bottleneck())
        self.down = nn.Conv2d(64, 64, 2, stride=2)
        self.stage2 = nn.Sequential(Bottleneck(), Bottleneck())
        self.pool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stage2(self.down(self.stage1(self.stem(x))))
        return self.fc(self.pool(x).flatten(1))
