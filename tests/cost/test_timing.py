"""Times: paired, interleaved, as many as the question needs."""

import math
import time

import pytest
import torch

from attnsurgeon.cost import timing
from attnsurgeon.cost.timing import by_events, latency_of, on_the_clock, paired, watch_of


class Told:
    """Two runs and a clock that says what it is told: seconds of the one, and of the other."""

    def __init__(self, before, after):
        self.log = []
        self.runs = [lambda: self.log.append("a"), lambda: self.log.append("b")]
        self.seconds = {"a": before, "b": after}

    def watch(self, run):
        run()
        seconds = self.seconds[self.log[-1]]
        return next(seconds) if hasattr(seconds, "__next__") else seconds

    def paired(self, enough=lambda measured: True, *, until=math.inf, **how):
        return paired(self.runs, self.watch, enough, until=until, **how)


def test_the_figures_are_those_of_the_pairs():
    # before 1 2 4 8, after 2 6 8 16: within a pair 2 3 2 2.
    told = Told(iter([1.0, 2.0, 4.0, 8.0]), iter([2.0, 6.0, 8.0, 16.0]))
    measured = told.paired(repeats=4, warm_up=0)
    assert (measured.before.median, measured.before.q1, measured.before.q3) == (3.0, 1.75, 5.0)
    assert measured.after.median == 7.0
    assert (measured.ratio.median, measured.ratio.q1, measured.ratio.q3) == (2.0, 2.0, 2.25)
    assert (measured.ratio.low, measured.ratio.high) == (2.0, 3.0)
    assert (measured.pairs, measured.warm_up, measured.undecided) == (4, 0, False)


def test_a_drift_that_both_runs_see_does_not_move_the_ratio():
    slower = [1.5**n for n in range(20)]
    measured = Told(iter(slower), iter([1.1 * s for s in slower])).paired(repeats=20, warm_up=0)
    assert measured.after.q3 / measured.after.q1 > 10
    assert measured.ratio.low == pytest.approx(1.1) == measured.ratio.high


def test_pairs_run_in_alternating_order_after_a_warm_up():
    told = Told(1.0, 1.0)
    measured = told.paired(repeats=4)
    assert "".join(told.log) == "abba" + "abbaabba"
    assert (measured.pairs, measured.warm_up) == (4, 2)


def test_what_was_warmed_up_does_not_count():
    told = Told(iter([9.0, 9.0, 1.0, 1.0]), iter([1.0, 1.0, 2.0, 2.0]))
    assert told.paired(repeats=2).ratio.median == 2.0


@pytest.mark.parametrize(
    ("count", "low", "high"),
    [(2, 1, 2), (5, 1, 5), (6, 1, 6), (10, 2, 9), (20, 6, 15), (50, 18, 33), (100, 40, 61)],
)
def test_the_interval_of_a_median_is_that_of_the_binomial_tables(count, low, high):
    assert timing._interval([float(n) for n in range(1, count + 1)]) == (low, high)


def test_the_interval_of_many_goes_on_where_the_tables_end():
    assert timing._outside(1001) - timing._outside(1000) in (0, 1)
    low, high = timing._interval([float(n) for n in range(1, 10_001)])
    assert (low, high) == (4902, 5099)  # 5000.5 - and + 98 = 1.96 * sqrt(10,000) / 2, outwards


@pytest.mark.parametrize(("count", "known"), [(2, False), (5, False), (6, True), (20, True)])
def test_fewer_than_six_pairs_have_no_interval_of_95_percent(count, known):
    # All of n lie on one side of the median with probability 2 / 2^n: 6.25 % of 5, 3.1 % of 6.
    assert latency_of([(1.0, 1.0)] * count).has_interval is known


def test_more_pairs_are_measured_until_the_question_is_answered():
    asked = []

    def enough(measured):
        asked.append(measured.pairs)
        return measured.pairs >= 9

    told = Told(1.0, 1.0)
    measured = told.paired(enough, repeats=3, warm_up=1)
    assert asked == [3, 6, 12]
    assert (measured.pairs, measured.undecided) == (12, False)
    assert len(told.log) == 2 * (1 + 12)


@pytest.mark.parametrize(
    ("how", "pairs", "warm_up"),
    [
        ({}, 2, 1),  # as few as have a spread
        ({"repeats": 9, "warm_up": 3}, 9, 3),  # those that were asked for, however long it takes
        ({"warm_up": 0}, 2, 0),
    ],
)
def test_a_question_that_is_not_answered_in_time_is_undecided(how, pairs, warm_up):
    measured = Told(1.0, 1.0).paired(lambda measured: False, until=0.0, **how)
    assert (measured.pairs, measured.warm_up, measured.undecided) == (pairs, warm_up, True)


def test_an_answer_that_comes_as_the_time_is_up_is_one():
    assert not Told(1.0, 1.0).paired(until=0.0).undecided


def test_without_a_number_twenty_pairs_are_the_first_look():
    assert Told(1.0, 1.0).paired().pairs == 20


def test_the_clock_of_the_cpu_says_how_long_something_ran():
    assert watch_of(torch.device("cpu")) is on_the_clock
    assert 0.02 <= on_the_clock(lambda: time.sleep(0.02)) < 1
    assert on_the_clock(lambda: None) < 0.02
    assert on_the_clock(lambda: None, lambda: time.sleep(0.02)) >= 0.02


class FakeDevice:
    """A device with a queue: work that is put there is done when somebody waits for it."""

    def __init__(self):
        self.now, self.queue, self.log = 0.0, [], []

    def work(self, milliseconds):
        self.queue.append(("work", milliseconds))

    def Event(self, *, enable_timing):
        assert enable_timing
        return FakeEvent(self)

    def drain(self):
        for what, value in self.queue:
            if what == "work":
                self.now += value
            else:
                value.at = self.now
        self.queue.clear()


class FakeEvent:
    def __init__(self, device):
        self.device, self.at = device, None

    def record(self):
        self.device.queue.append(("event", self))

    def synchronize(self):
        self.device.drain()

    def elapsed_time(self, end):
        return end.at - self.at


def test_events_measure_the_work_in_the_queue_and_nothing_before_it():
    device = FakeDevice()
    watch = by_events(device)
    device.work(1000)  # still in the queue when the run starts
    assert watch(lambda: device.work(12.5)) == pytest.approx(0.0125)
    assert watch(lambda: None) == 0
    assert not device.queue


def test_a_device_is_timed_by_its_events_or_by_waiting_for_it(monkeypatch):
    device, waited = FakeDevice(), []
    monkeypatch.setattr(torch, "get_device_module", lambda of: device)
    watch = watch_of(torch.device("cuda:1"))
    assert watch(lambda: device.work(25)) == pytest.approx(0.025)
    monkeypatch.setattr(torch, "get_device_module", lambda of: object())
    monkeypatch.setattr(torch.accelerator, "synchronize", waited.append)
    assert 0 <= watch_of(torch.device("cuda:1"))(lambda: None) < 1
    assert waited == [torch.device("cuda:1")]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_events_of_cuda_measure_what_the_device_does():
    watch = watch_of(torch.device("cuda"))
    small, large = torch.rand(64, 64, device="cuda"), torch.rand(4096, 4096, device="cuda")
    for x in (small, large):
        watch(lambda x=x: x @ x)
    assert 0 < watch(lambda: small @ small) < watch(lambda: [large @ large for _ in range(8)])
