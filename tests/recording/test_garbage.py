"""The collector rests inside, and is afterwards what it was before."""

import gc
import threading

import pytest
from torch import nn

from attnsurgeon.recording.garbage import uncollected
from attnsurgeon.sites.analysis import analyse


@pytest.fixture
def at_work():
    before = gc.isenabled()
    yield
    (gc.enable if before else gc.disable)()


@pytest.fixture
def alone(monkeypatch):
    """As in a program of one thread: libraries that other tests use may have started some."""
    monkeypatch.setattr(threading, "active_count", lambda: 1)


class Asks(nn.Module):
    """Notes in its forward whether the collector is at work."""

    answers: list[bool] = []  # noqa: RUF012 -- of the class: its copies are run

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, x):
        self.answers.append(gc.isenabled())
        return self.conv(x)


@pytest.mark.parametrize("enabled", [True, False])
def test_it_rests_inside_and_is_then_what_it_was(at_work, alone, enabled):
    (gc.enable if enabled else gc.disable)()
    with uncollected():
        with uncollected():
            assert not gc.isenabled()
        assert not gc.isenabled()
    assert gc.isenabled() == enabled
    with pytest.raises(ValueError, match="letters"), uncollected():
        int("letters")
    assert gc.isenabled() == enabled


def test_it_goes_on_beside_another_thread(at_work):
    gc.enable()
    enough = threading.Event()
    other = threading.Thread(target=enough.wait)
    other.start()
    try:
        with uncollected():
            assert gc.isenabled()
        gc.disable()
        with uncollected():
            gc.enable()  # another thread may
        assert gc.isenabled()
    finally:
        enough.set()
        other.join()


def test_it_rests_while_a_network_is_analysed_and_not_longer(at_work, alone):
    gc.enable()
    Asks.answers.clear()
    analyse(Asks(), (3, 8, 8))
    assert Asks.answers
    assert not any(Asks.answers)
    assert gc.isenabled()
