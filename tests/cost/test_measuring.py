"""Measurements: of a forward and a training step, on networks that are left alone."""

import copy
import functools
import math
import random
import time
import weakref
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

import attnsurgeon
from attnsurgeon.cost.measured import Latency, Spread
from attnsurgeon.cost.measuring import measure, narrow
from attnsurgeon.cost.timing import paired
from attnsurgeon.errors import ModelError, UsageError
from tests.nets.small import SIZE, small

BRIEF = {"repeats": 2, "warm_up": 1, "seconds": 0.0}
X = torch.rand(2, 3)


class Sleeper(nn.Module):
    """Takes as long as it is told, longer in training, and writes down that it ran.

    The time is that of a clock of its own, which `clock` puts in place of the real one.
    """

    log: ClassVar[list[str]] = []
    now: ClassVar[list[float]] = [0.0]

    def __init__(self, name, seconds=0.0, more=0.0):
        super().__init__()
        self.name, self.seconds, self.more = name, seconds, more
        self.fc, self.norm = nn.Linear(3, 3), nn.BatchNorm1d(3)

    def forward(self, x):
        self.log.append(self.name.upper() if self.training else self.name)
        self.now[0] += self.seconds + self.more * self.training
        return self.norm(self.fc(x))


@pytest.fixture(autouse=True)
def empty_log():
    Sleeper.log.clear()


@pytest.fixture
def clock(monkeypatch):
    """A clock that goes on only where a network says so."""
    for name in ("perf_counter", "monotonic"):
        monkeypatch.setattr(time, name, lambda: Sleeper.now[0])


def test_the_ratios_are_those_of_the_two_networks(clock):
    made = measure(Sleeper("a", 0.004, 0.006), Sleeper("b", 0.020, 0.0), X, **BRIEF)
    assert made.forward is not None
    assert made.step is not None
    assert made.forward.ratio.median == pytest.approx(5)
    assert made.step.ratio.median == pytest.approx(2)
    assert made.forward.before.median == pytest.approx(0.004)
    assert made.step.before.median == pytest.approx(0.010)
    assert made.why == ""


def test_the_forward_runs_in_eval_mode_and_the_step_in_training_mode():
    measure(Sleeper("a"), Sleeper("b"), X, repeats=4, warm_up=2, seconds=0)
    memory = "AB"
    assert "".join(Sleeper.log) == "abba" * 3 + memory + "ABBA" * 3


def test_the_settings_are_said():
    made = measure(Sleeper("a"), Sleeper("b"), torch.rand(5, 3), threads=1, **BRIEF)
    settings = made.settings
    assert (settings.batch, settings.device, settings.dtype) == (5, "cpu", "float32")
    assert (settings.threads, settings.seconds) == (1, 0.0)
    double = measure(Sleeper("a").double(), Sleeper("b").double(), X, **BRIEF)
    assert double.settings.dtype == "float64"  # and the input is converted


def test_threads_are_those_that_are_asked_for_and_put_back():
    seen = []

    class Looking(Sleeper):
        def forward(self, x):
            seen.append(torch.get_num_threads())
            return super().forward(x)

    usual = torch.get_num_threads()
    made = measure(Looking("a"), Looking("b"), X, threads=3, **BRIEF)
    assert made.settings.threads == 3
    assert set(seen) == {3}
    assert torch.get_num_threads() == usual


def test_memory_alone_takes_one_step_of_each():
    made = measure(Sleeper("a"), Sleeper("b"), X, times=False)
    assert (made.forward, made.step) == (None, None)
    assert "".join(Sleeper.log) == "AB"
    # the input, the norm's input, its mean and deviation
    assert made.memory is not None
    assert made.memory.before == made.memory.after == 4 * (2 * 3 + 2 * 3 + 2 * 3)
    assert (made.memory.delta, made.memory.percent) == (0, 0)


def test_the_memory_that_attention_adds_is_said():
    net = small()
    after = attnsurgeon.insert(net, "eca", input_size=SIZE).model
    made = measure(net, after, torch.rand(2, *SIZE), times=False)
    assert made.memory is not None
    # Of each of two blocks the gate keeps what it scales (2, 8, 16, 16), or the product.
    assert made.memory.delta >= 2 * 4 * 2 * 8 * 16 * 16


@pytest.mark.slow
def test_the_figures_of_the_page_come_out():
    page = (Path(__file__).parents[2] / "docs" / "measuring.md").read_text(encoding="utf-8")
    operation = attnsurgeon.insert(attnsurgeon.load_model("resnet50"), "cbam", "bottleneck")
    net = attnsurgeon.load_model("resnet50")
    memory = measure(net, operation.model, torch.rand(1, 3, 224, 224), times=False).memory
    assert memory is not None
    assert f"adds {operation.cost.delta.macs_percent:.2f} % of them" in page
    assert f"and {memory.percent:.2f} % to" in page


def test_narrow_is_an_interval_of_three_percent_of_at_least_six_pairs():
    def known(low, median, high, pairs=20):
        spread = Spread(median, low, high, low, high)
        return narrow(Latency(spread, spread, spread, pairs))

    assert known(0.985, 1.0, 1.014)
    assert not known(0.98, 1.0, 1.014)
    assert known(1.98, 2.0, 2.03)
    assert not known(1.0, 1.0, 1.0, pairs=5)


def test_the_interval_holds_the_truth_as_often_as_it_says_though_it_says_when_to_stop():
    rng = random.Random(0)
    runs = [lambda: rng.lognormvariate(0, 0.03), lambda: rng.lognormvariate(0.1, 0.03)]
    truth, found = math.exp(0.1), 0
    for _ in range(200):
        ratio = paired(runs, lambda run: run(), narrow, until=math.inf, warm_up=0).ratio
        assert ratio.high - ratio.low <= 0.03 * ratio.median
        found += ratio.low <= truth <= ratio.high
    assert 180 <= found < 200  # 190 of 200 are 95 %


def test_more_pairs_are_measured_while_the_question_is_open_and_there_is_time():
    asked = []

    def enough(forward):
        asked.append(forward.pairs)
        return len(asked) == 3

    made = measure(Sleeper("a"), Sleeper("b"), X, repeats=2, seconds=1, enough=enough)
    assert asked == [2, 4, 8]
    assert made.forward is not None
    assert (made.forward.pairs, made.forward.undecided) == (8, False)


def test_the_time_that_is_given_is_kept(clock):
    started = Sleeper.now[0]
    made = measure(Sleeper("a", 0.01), Sleeper("b", 0.01), X, seconds=0.6, enough=lambda f: False)
    assert 0.5 < Sleeper.now[0] - started < 1.0  # warm-up and the pair at hand are finished
    assert made.forward is not None
    assert made.forward.undecided


# What is left alone.


class Writer(nn.Module):
    """Changes all it can reach: weights, buffers, attributes, its input, three generators."""

    def __init__(self):
        super().__init__()
        self.conv = parametrizations.spectral_norm(nn.Conv2d(3, 4, 3, padding=1))
        self.norm, self.drop = nn.BatchNorm2d(4), nn.Dropout(0.5)
        self.fc = nn.Linear(4, 5)
        self.register_buffer("seen", torch.zeros(()))
        self.runs, self.kept = 0, [torch.zeros(2)]

    def forward(self, x):
        with torch.no_grad():
            self.fc.weight.clamp_(-0.01, 0.01)
            self.seen.add_(1)
            self.kept[0].add_(1)
            x.add_(1)
        self.runs += 1
        noise = random.random() + np.random.rand() + torch.rand(()).item()
        return self.fc(self.drop(self.norm(self.conv(x))).mean((2, 3))) * noise


def all_of(net):
    """Everything of a network that a run could change."""
    tensors = {**dict(net.named_parameters()), **dict(net.named_buffers())}
    return (
        {name: (t, t.detach().clone(), t.grad, t.requires_grad) for name, t in tensors.items()},
        {
            path: (m.training, set(vars(m)), len(m._forward_hooks))
            for path, m in net.named_modules()
        },
        (net.runs, net.kept[0].clone()),
    )


def dice():
    return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()


@pytest.mark.parametrize("training", [True, False])
def test_a_network_is_left_as_it_was_to_the_bit(training):
    nets = [Writer().train(training) for _ in range(2)]
    for net in nets:
        net.norm.train(not training)  # as somebody set it
        net.conv.requires_grad_(False)
        net.fc.weight.grad = torch.full((5, 4), 0.25)
    x = torch.rand(2, 3, 5, 5)
    before, given, thrown = [all_of(net) for net in nets], x.clone(), dice()
    made = measure(*nets, x, **BRIEF)
    assert made.step is not None
    assert made.memory is not None
    assert torch.equal(x, given)
    assert dice() == thrown
    for net, (tensors, modules, (runs, kept)) in zip(nets, before, strict=True):
        now, modules_now, (runs_now, kept_now) = all_of(net)
        assert list(now) == list(tensors)
        for name, (tensor, value, grad, requires) in tensors.items():
            assert now[name][0] is tensor
            assert torch.equal(now[name][1], value)
            assert now[name][2] is grad
            assert now[name][3] is requires
        assert modules_now == modules
        assert runs_now == runs
        assert torch.equal(kept_now, kept)
    assert torch.equal(nets[0].fc.weight.grad, torch.full((5, 4), 0.25))


def test_the_test_above_can_fail():
    net = Writer()
    before, thrown = all_of(net), dice()
    net(torch.rand(2, 3, 5, 5)).sum().backward()
    tensors, _, (runs, kept) = all_of(net)
    for name in ("fc.weight", "norm.running_mean", "seen"):
        assert not torch.equal(tensors[name][1], before[0][name][1])
    assert tensors["fc.weight"][2] is not None
    assert runs == 1
    assert kept[0] == 1
    assert all(now != then for now, then in zip(dice(), thrown, strict=True))


def test_state_is_put_back_where_a_network_raises():
    class Broken(Writer):
        def forward(self, x):
            raise ValueError(f"drew {torch.rand(()).item() > 2}")

    nets, x = (Broken(), Broken()), torch.rand(2, 3, 5, 5)
    thrown, usual = dice(), torch.get_num_threads()
    with pytest.raises(ModelError, match="cannot be run at batch 2 on cpu: ValueError: drew False"):
        measure(*nets, x, threads=usual + 1, **BRIEF)
    assert dice() == thrown
    assert torch.get_num_threads() == usual


@functools.lru_cache
def index_of(size):
    return torch.arange(float(size))


class Caching(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 3)
        self.table = None

    def forward(self, x):
        if self.table is None:
            self.table = torch.ones(3)
        return self.fc(x) * index_of(3) * self.table


def test_what_a_network_keeps_of_a_forward_does_not_reach_its_training():
    index_of.cache_clear()
    net = Caching()
    assert measure(net, copy.deepcopy(net), X, **BRIEF).why == ""
    assert net.table is None
    assert index_of.cache_info().currsize == 0  # a tensor of inference mode would stay there
    net(X).sum().backward()


class Counted(Sleeper):
    live: ClassVar[weakref.WeakSet] = weakref.WeakSet()
    most: ClassVar[int] = 0

    def forward(self, x):
        self.live.add(self)
        type(self).most = max(self.most, len(self.live))
        return super().forward(x)


def test_no_more_than_one_copy_of_each_is_there_at_a_time():
    measure(Counted("a"), Counted("b"), X, **BRIEF)
    assert Counted.most == 2
    assert not Counted.live


# What cannot be measured.


class Detector(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 3)

    def forward(self, x, targets=None):
        if self.training and targets is None:
            raise ValueError("targets should not be none when in training mode\nmore of it")
        return self.fc(x)


def test_a_network_that_needs_more_to_be_trained_has_a_forward_and_a_reason():
    made = measure(Detector(), Detector(), X[:1], **BRIEF)
    assert made.forward is not None
    assert (made.step, made.memory) == (None, None)
    assert made.why == "ValueError: targets should not be none when in training mode"


def test_a_network_that_cannot_be_trained_on_one_image_is_told_of_two():
    net = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    assert "Expected more than 1 value per channel" in (
        why := measure(net, net, X[:1], **BRIEF).why
    )
    assert why.endswith("; at batch 2 there is one")
    assert measure(net, net, X, **BRIEF).why == ""


def test_a_network_of_which_nothing_learns_has_no_step():
    net = nn.Linear(3, 3).requires_grad_(False)
    made = measure(net, net, X, **BRIEF)
    assert "nothing that it returns in training mode depends on its parameters" in made.why


def test_a_network_whose_backbone_is_frozen_has_a_cheaper_step():
    net = attnsurgeon.insert(small(), "se", input_size=SIZE).model
    frozen = copy.deepcopy(net)
    attnsurgeon.freeze_backbone(frozen)
    memory = measure(net, frozen, torch.rand(2, *SIZE), times=False).memory
    assert memory is not None
    assert memory.after < memory.before


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"repeats": 1}, "1 repeats have no spread"),
        ({"warm_up": -1}, "warm_up=-1 is no number of pairs"),
        ({"threads": 0}, "threads=0"),
        ({"seconds": -1.0}, "seconds=-1.0 is no time"),
        ({"seconds": float("nan")}, "seconds=nan is no time"),
    ],
)
def test_numbers_that_measure_nothing_are_refused(how, message):
    with pytest.raises(UsageError, match=message):
        measure(Sleeper("a"), Sleeper("b"), X, **how)
    assert not Sleeper.log


def test_meta_weights_cannot_be_measured():
    with pytest.raises(UsageError, match="nothing can be measured on the meta device"):
        measure(Sleeper("a").to("meta"), Sleeper("b").to("meta"), X)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_networks_on_two_devices_are_refused():
    with pytest.raises(UsageError, match="the weights are on cpu and cuda:0"):
        measure(Sleeper("a"), Sleeper("b").cuda(), X)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_network_on_cuda_is_measured_there_and_left_alone():
    nets = [Writer().cuda() for _ in range(2)]
    before, thrown = [all_of(net)[0] for net in nets], torch.cuda.get_rng_state()
    made = measure(*nets, torch.rand(2, 3, 5, 5), **BRIEF)
    assert made.settings.device == "cuda:0"
    assert made.step is not None
    assert made.step.before.median > 0
    assert made.memory is not None
    assert made.memory.what == "allocated"
    assert torch.equal(torch.cuda.get_rng_state(), thrown)
    for net, tensors in zip(nets, before, strict=True):
        assert all(torch.equal(all_of(net)[0][n][1], tensors[n][1]) for n in tensors)
