"""What a trial run leaves in the caches of a network's code is gone when the run has ended."""

import functools

import torch
from torch import nn

import attnsurgeon
from attnsurgeon.recording.caches import caches_as_they_were
from tests.surgery import outputs, ready, same


def remembered(function):
    """A decorator that hides its cache in a closure, as libraries do."""
    kept = functools.lru_cache(maxsize=4)(function)

    @functools.wraps(function)
    def wrapper(*args):
        return kept(*args)

    return wrapper


@functools.cache
def ramp(width):
    return torch.arange(width, dtype=torch.float32) / width


class Positions(nn.Module):
    """Adds a ramp of positions that two cached functions make, by the width alone."""

    @staticmethod
    @remembered
    def offset(width):
        return torch.zeros(width) + 0.5

    def forward(self, x):
        return x + ramp(x.shape[-1]) + self.offset(x.shape[-1])


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.positions = Positions()
        self.conv, self.norm = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)

    def forward(self, x):
        x = self.positions(x)
        return x + self.norm(self.conv(x)).relu()


def test_a_run_on_meta_leaves_no_meta_tensor_in_a_cache():
    net, x = ready(Net()), torch.randn(2, 3, 8, 12)
    expected = outputs(net, x)
    ramp.cache_clear()
    operation = attnsurgeon.insert(net, "eca", "residual-branch", input_size=(3, 8, 12))
    assert operation.cost.delta.params > 0  # weighed on meta, too
    assert same(outputs(net, x), expected)
    assert operation.verify().ok


def test_only_caches_that_got_an_entry_are_emptied():
    ramp.cache_clear()
    ramp(5)
    with caches_as_they_were(Net()):
        ramp(5)
    assert ramp.cache_info().currsize == 1
    with caches_as_they_were(Net()):
        ramp(6)
    assert ramp.cache_info().currsize == 0
