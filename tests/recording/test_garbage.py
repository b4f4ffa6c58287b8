"""The collector rests inside, and is afterwards what it was before."""

import gc

import pytest
from torch import nn

from attnsurgeon.recording.garbage import uncollected
from attnsurgeon.sites.analysis import analyse


@pytest.fixture
def at_work():
    before = gc.isenabled()
    yield
    (gc.enable if before else gc.disable)()


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
def test_it_rests_inside_and_is_then_what_it_was(at_work, enabled):
    (gc.enable if enabled else gc.disable)()
    with uncollected():
        with uncollected():
            assert not gc.isenabled()
        assert not gc.isenabled()
    assert gc.isenabled() == enabled
    with pytest.raises(ValueError, match="letters"), uncollected():
        int("letters")
    assert gc.isenabled() == enabled


def test_it_rests_while_a_network_is_analysed_and_not_longer(at_work):
    gc.enable()
    Asks.answers.clear()
    analyse(Asks(), (3, 8, 8))
    assert Asks.answers
    assert not any(Asks.answers)
    assert gc.isenabled()
