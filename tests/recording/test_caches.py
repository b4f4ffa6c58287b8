"""What a trial run leaves in the caches of a network's code is gone when the run has ended."""

import functools
import threading

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


def test_a_trial_run_has_caches_of_its_own_and_the_others_keep_their_entries():
    ramp.cache_clear()
    kept = ramp(5)
    original = ramp
    with caches_as_they_were(Net()):
        with caches_as_they_were(Net()):
            assert ramp(5) is not kept
            assert ramp(5) is ramp(5)
            assert ramp(6).shape == (6,)
        assert ramp is not original
    assert ramp is original
    assert ramp.cache_info().currsize == 1
    assert ramp(5) is kept


def test_another_thread_meets_the_caches_as_they_are_while_a_trial_run_goes_on():
    ramp.cache_clear()
    kept = ramp(7)
    found = []
    with caches_as_they_were(Net()):
        assert ramp(7) is not kept
        other = threading.Thread(
            target=lambda: found.extend([ramp(7), ramp(8), Positions.offset(3)])
        )
        other.start()
        other.join()
    assert found[0] is kept
    assert ramp(8) is found[1]
    assert Positions.offset(3) is found[2]


def test_entries_of_runs_on_numbers_do_not_reach_a_run_on_meta():
    net, x = ready(Net()), torch.randn(2, 3, 8, 12)
    ramp.cache_clear()
    cold = [cut.module_path for cut in attnsurgeon.plan(net, "eca", input_size=(3, 8, 12))]
    net(x)
    assert [cut.module_path for cut in attnsurgeon.plan(net, "eca", input_size=(3, 8, 12))] == cold
