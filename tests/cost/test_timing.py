"""Latency: paired, interleaved, and on networks that are left alone."""

import time
from typing import ClassVar

import pytest
import torch
from torch import nn

from attnsurgeon.cost import timing
from attnsurgeon.cost.timing import latency
from attnsurgeon.errors import UsageError


class Sleeper(nn.Module):
    """Takes as long as it is told, and writes down that it ran."""

    log: ClassVar[list[str]] = []

    def __init__(self, name, seconds):
        super().__init__()
        self.name, self.seconds = name, seconds
        self.norm = nn.BatchNorm1d(3)

    def forward(self, x):
        self.log.append(self.name)
        assert not self.training
        time.sleep(self.seconds)
        return self.norm(x)


X = (torch.rand(2, 3),)


@pytest.fixture(autouse=True)
def empty_log():
    Sleeper.log.clear()


def test_the_ratio_is_that_of_the_two_networks():
    measured = latency(Sleeper("a", 0.004), Sleeper("b", 0.020), X, repeats=5)
    assert 2 < measured.ratio < 6
    assert measured.before.lower <= measured.before.median <= measured.before.upper
    assert measured.before.median >= 0.004
    assert measured.after.median >= 0.020
    assert (measured.repeats, measured.device) == (5, "cpu")
    assert measured.threads == torch.get_num_threads()


def test_pairs_run_back_to_back_in_alternating_order_after_a_warm_up():
    latency(Sleeper("a", 0), Sleeper("b", 0), X, repeats=4)
    assert "".join(Sleeper.log) == "abba" * 3


@pytest.mark.parametrize(
    ("count", "low", "high"),
    [(2, 1, 2), (5, 1, 5), (6, 1, 6), (10, 2, 9), (20, 6, 15), (50, 18, 33), (100, 40, 61)],
)
def test_the_interval_of_a_median_is_that_of_the_binomial_tables(count, low, high):
    assert timing._interval([float(n) for n in range(1, count + 1)]) == (low, high)


def test_more_pairs_are_measured_until_the_question_is_answered():
    asked = []

    def enough(measured):
        asked.append(measured.repeats)
        return measured.repeats >= 9

    measured = latency(Sleeper("a", 0), Sleeper("b", 0), X, repeats=3, warm_up=1, enough=enough)
    assert asked == [3, 6, 9]
    assert (measured.repeats, measured.batch) == (9, 2)
    assert len(Sleeper.log) == 2 * (1 + 9)
    low, high = measured.interval
    assert low <= measured.ratio <= high


def test_a_question_that_is_not_answered_ends_all_the_same():
    never = {"enough": lambda measured: False, "most_seconds": 0.0}
    assert latency(Sleeper("a", 0), Sleeper("b", 0), X, repeats=3, **never).repeats == 3


def test_threads_are_those_that_are_asked_for_and_put_back():
    seen = []

    class Looking(Sleeper):
        def forward(self, x):
            seen.append(torch.get_num_threads())
            return super().forward(x)

    usual = torch.get_num_threads()
    assert latency(Looking("a", 0), Looking("b", 0), X, repeats=2, threads=3).threads == 3
    assert set(seen) == {3}
    assert torch.get_num_threads() == usual


def test_both_networks_are_left_as_they_were():
    networks = Sleeper("a", 0).train(), Sleeper("b", 0).train()
    latency(*networks, X, repeats=2)
    for network in networks:
        assert network.training
        assert network.norm.training
        assert network.norm.num_batches_tracked == 0


def test_meta_weights_cannot_be_timed():
    with pytest.raises(UsageError, match="cannot be measured on the meta device"):
        latency(Sleeper("a", 0).to("meta"), Sleeper("b", 0).to("meta"), X)


def test_one_pair_has_no_spread():
    with pytest.raises(UsageError, match="1 repeats have no spread"):
        latency(Sleeper("a", 0), Sleeper("b", 0), X, repeats=1)
