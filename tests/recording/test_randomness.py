"""Runs on dice of their own: the same numbers every time, and no generator of others moves."""

import contextlib
import random
import threading

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from attnsurgeon.recording.randomness import OwnDice, dice_put_back, settled, thrown_by

DRAWS = {
    "rand": lambda: torch.rand(3),
    "randn": lambda: torch.randn(2, 3),
    "randint": lambda: torch.randint(9, (20,)),
    "randint between": lambda: torch.randint(3, 9, (20,)),
    "randperm": lambda: torch.randperm(20),
    "rand_like": lambda: torch.rand_like(torch.ones(3)),
    "randn_like": lambda: torch.randn_like(torch.ones(3)),
    "randint_like": lambda: torch.randint_like(torch.ones(20), 9),
    "normal_": lambda: torch.ones(3).normal_(),
    "normal": lambda: torch.normal(torch.zeros(3), torch.ones(3)),
    "uniform_": lambda: torch.ones(3).uniform_(),
    "bernoulli": lambda: torch.bernoulli(torch.full((30,), 0.5)),
    "multinomial": lambda: torch.multinomial(torch.ones(30), 9),
    "poisson": lambda: torch.poisson(torch.full((30,), 4.0)),
    "exponential_": lambda: torch.ones(3).exponential_(),
    "random_": lambda: torch.ones(30, dtype=torch.int64).random_(0, 99),
    "dropout": lambda: F.dropout(torch.ones(30), 0.5, True),
    "dropout in place": lambda: F.dropout(torch.ones(30), 0.5, True, True),
    "alpha dropout": lambda: F.alpha_dropout(torch.ones(30), 0.5, True),
    "feature dropout": lambda: F.dropout2d(torch.ones(1, 30, 2, 2), 0.5, True),
    "rrelu": lambda: F.rrelu(-torch.ones(30), training=True),
    "attention": lambda: F.scaled_dot_product_attention(*torch.ones(3, 1, 2, 8, 4), dropout_p=0.5),
    "pooling": lambda: F.fractional_max_pool2d(torch.arange(256.0).view(1, 1, 16, 16), 2, 5),
    "gumbel": lambda: F.gumbel_softmax(torch.zeros(1, 30)),
    "layer": lambda: nn.Conv2d(3, 4, 3).weight,
    "recurrent": lambda: nn.LSTM(3, 4, 2, dropout=0.5)(torch.ones(5, 1, 3))[0],
    "distribution": lambda: torch.distributions.Beta(torch.ones(3), torch.ones(3)).sample(),
}
STILL = {
    "sums": lambda: torch.ones(3).sum(),
    "dropout in eval": lambda: F.dropout(torch.ones(30), 0.5, False),
    "attention": lambda: F.scaled_dot_product_attention(*torch.ones(3, 1, 2, 8, 4)),
    "on meta": lambda: torch.rand(3, device="meta").normal_(),
    "its own": lambda: torch.rand(3, generator=torch.Generator().manual_seed(3)),
}


@pytest.mark.parametrize("draw", DRAWS)
def test_a_draw_of_torch_is_seen_repeats_and_moves_nobodys_generator(draw):
    before = torch.get_rng_state()
    made, thrown = thrown_by(DRAWS[draw], 5)
    assert thrown
    assert torch.equal(settled(DRAWS[draw], 5), made)
    assert torch.equal(torch.get_rng_state(), before)
    assert any(not torch.equal(settled(DRAWS[draw], seed), made) for seed in range(6, 12))


@pytest.mark.parametrize("run", STILL)
def test_what_draws_from_no_default_generator_throws_no_dice(run):
    assert not thrown_by(STILL[run])[1]


def test_numbers_are_those_of_torch_for_the_seed():
    torch.manual_seed(5)
    expected = torch.rand(3), torch.randn(4), nn.Linear(3, 2).weight
    with OwnDice(5):
        made = torch.rand(3), torch.randn(4), nn.Linear(3, 2).weight
    assert all(map(torch.equal, made, expected))


@pytest.mark.parametrize(
    "draw",
    [
        random.random,
        lambda: random.uniform(0, 1),
        lambda: random.choice(range(1000)),
        lambda: float(np.random.rand()),
        lambda: np.random.permutation(50).tolist(),
    ],
)
def test_pythons_and_numpys_dice_are_seen_repeat_and_are_given_back(draw):
    before = random.getstate(), str(np.random.get_state())
    made, thrown = thrown_by(draw)
    assert thrown
    assert settled(draw) == made
    assert (random.getstate(), str(np.random.get_state())) == before


def test_dice_of_another_thread_are_neither_seen_nor_set_back():
    def draws():
        random.random()
        np.random.rand()
        torch.rand(1)

    def run():
        thread = threading.Thread(target=draws)
        thread.start()
        thread.join()
        return float(torch.ones(2).sum())

    before = random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()
    assert thrown_by(run) == (2.0, False)
    after = random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()
    assert all(now != was for now, was in zip(after, before, strict=True))


def test_an_error_passes_and_the_dice_are_given_back():
    def fails():
        random.random()
        torch.rand(1)
        raise ValueError("nothing fits")

    before = random.getstate(), torch.get_rng_state().tolist()
    with pytest.raises(ValueError, match="nothing fits"):
        settled(fails)
    assert (random.getstate(), torch.get_rng_state().tolist()) == before


class OfEach:
    """A kind of device of which each has a generator, as those of CUDA have."""

    def __init__(self):
        self.states = {0: torch.tensor([3]), 1: torch.tensor([5])}

    def get_rng_state(self, device="cuda"):
        return self.states[device.index].clone()

    def set_rng_state(self, state, device="cuda"):
        self.states[device.index] = state

    def draw(self):
        self.states[1] += 1


class OfAll(OfEach):
    """A kind of device of which all have one, as that of Apple's has."""

    def get_rng_state(self):  # type: ignore[override]
        return self.states[1].clone()

    def set_rng_state(self, state):  # type: ignore[override]
        self.states[1] = state


@pytest.mark.parametrize("kind", [None, OfEach, OfAll])
@pytest.mark.parametrize("fails", [False, True])
def test_dice_that_were_thrown_without_a_mode_are_put_back(monkeypatch, kind, fails):
    module = OfEach() if kind is None else kind()
    monkeypatch.setattr(torch, "get_device_module", lambda device: module)
    device = torch.device("cpu" if kind is None else "cuda:1")
    before = random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()
    moved = []
    with contextlib.suppress(ValueError), dice_put_back(device):
        random.random()
        np.random.rand()
        torch.rand(1)
        if kind is not None:
            module.draw()
        now = random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()
        moved += [now[i] != before[i] for i in range(3)]
        if fails:
            raise ValueError
    assert moved == [True] * 3
    assert (random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()) == before
    assert {at: int(state) for at, state in module.states.items()} == {0: 3, 1: 5}
