"""A sum with a value that comes up from a lower resolution merges; its gate makes it no block."""

import torch
from torch import nn
from torch.nn import functional as F

import attnsurgeon


class Merge(nn.Module):
    """PAN's attention upsampling: what comes from below, and what comes beside it, gated by it."""

    def __init__(self, up: bool) -> None:
        super().__init__()
        self.up = up
        self.low = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8))
        self.gate = nn.Conv2d(8, 8, 1)

    def forward(self, low, high):
        gate = torch.sigmoid(self.gate(high.mean((2, 3), keepdim=True)))
        if self.up:
            high = F.interpolate(high, size=low.shape[2:], mode="bilinear", align_corners=True)
        return high + F.relu(self.low(low)) * gate


class Net(nn.Module):
    def __init__(self, up: bool) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.down = nn.Conv2d(8, 8, 3, stride=1 + up, padding=1)
        self.merge = Merge(up)
        self.head = nn.Conv2d(8, 4, 1)

    def forward(self, x):
        low = F.relu(self.stem(x))
        return self.head(self.merge(low, F.relu(self.down(low))))


def branches(up):
    sites = attnsurgeon.find_sites(Net(up), input_size=(3, 64, 64))
    return [site.path for site in sites if "residual-branch" in site.roles]


def test_what_comes_up_from_below_is_no_shortcut():
    assert branches(True) == []


def test_beside_a_value_of_its_own_resolution_it_is_one():
    assert branches(False) == ["merge:mul"]
