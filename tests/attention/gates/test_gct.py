"""GCT against its equations by plain loops, its start, and the authors' ResNet-50."""

import math

import pytest
import torch

from attnsurgeon.attention.registry import lookup
from attnsurgeon.errors import MechanismError
from tests.attention.cases import make, stir
from tests.attention.gates.sites import RESNET50

# What enters the convolutions of a ResNet-50: the stem, the four shortcuts, and three a block.
STEM_AND_SHORTCUTS = [3, 64, 256, 512, 1024]
BLOCKS = [  # (channels at the first 1x1, channels inside)
    *[(64, 64), (256, 64), (256, 64)],
    *[(256, 128), *[(512, 128)] * 3],
    *[(512, 256), *[(1024, 256)] * 5],
    *[(1024, 512), *[(2048, 512)] * 2],
]


def gates(gct, image):
    """Returns the gate of each channel of (C, ...)."""
    e = gct.epsilon
    rows = [row.tolist() for row in image.flatten(1)]
    if gct.norm == "l2":
        sizes = [math.sqrt(sum(v * v for v in row) + e) for row in rows]
    else:
        sizes = [sum(abs(v) for v in row) for row in rows]
    s = [a * size for a, size in zip(gct.alpha.tolist(), sizes, strict=True)]
    if gct.norm == "l2":
        whole = math.sqrt(sum(v * v for v in s) / len(s) + e)
    else:
        whole = sum(abs(v) for v in s) / len(s) + e
    gamma, beta = gct.gamma.tolist(), gct.beta.tolist()
    return [1 + math.tanh(g * v / whole + b) for g, v, b in zip(gamma, s, beta, strict=True)]


@pytest.mark.parametrize("norm", ["l2", "l1"])
@pytest.mark.parametrize("epsilon", [1e-5, 0.3])
def test_each_channel_is_measured_against_all(norm, epsilon):
    gct = stir(make("gct", 7, norm=norm, epsilon=epsilon).double())
    x = torch.randn(2, 7, 5, 3, dtype=torch.float64)
    expected = torch.stack([x[n] * torch.tensor(gates(gct, x[n]))[:, None, None] for n in (0, 1)])
    torch.testing.assert_close(gct(x), expected, rtol=0, atol=1e-6)
    exact = [g.item() for g in (gct(x) / x)[0, :, 0, 0]]
    assert exact == pytest.approx(gates(gct, x[0]), rel=1e-12)


def test_it_starts_as_the_identity_also_as_its_authors_start_it():
    x = torch.randn(2, 16, 5, 3)
    assert torch.equal(make("gct", 16)(x), x)


def test_channels_compete_where_gamma_is_negative_and_cooperate_where_it_is_positive():
    x = torch.randn(1, 8, 5, 3)
    x[:, 0] *= 10
    for gamma, more in ((-1.0, False), (1.0, True)):
        gct = make("gct", 8)
        torch.nn.init.constant_(gct.gamma, gamma)
        gate = (gct(x) / x)[0, :, 0, 0]
        assert (gate[0] > gate[1:]).all() == more


def test_the_size_of_the_map_and_of_its_values_have_no_say():
    gct = stir(make("gct", 7).double())
    x = torch.randn(1, 7, 5, 3, dtype=torch.float64)
    torch.testing.assert_close(gct(1000 * x) / 1000, gct(x), rtol=1e-5, atol=1e-5)
    twice = torch.cat((x, x), dim=-1)
    torch.testing.assert_close(gct(twice)[..., :3], gct(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("epsilon", [0.0, -1e-5])
def test_an_epsilon_that_divides_by_zero_is_refused(epsilon):
    with pytest.raises(MechanismError, match="divides 0 by 0"):
        make("gct", 8, epsilon=epsilon)


def test_another_norm_is_refused():
    with pytest.raises(MechanismError, match="l3"):
        make("gct", 8, norm="l3")


def test_parameters_of_a_resnet50_with_one_before_each_convolution():
    entering = [*STEM_AND_SHORTCUTS, *(c for first, width in BLOCKS for c in (first, width, width))]
    assert len(entering) == 53
    total = RESNET50 + sum(lookup("gct").params(c) for c in entering)
    assert total == 25_624_625  # of the authors' network, counted
