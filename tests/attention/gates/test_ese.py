"""eSE against its equation by plain loops, and against the authors' networks."""

import pytest
import torch

from attnsurgeon.attention.registry import lookup
from tests.attention.cases import make, stir
from tests.attention.loops import linear, means

VOVNET39 = [256, 512, 768, 768, 1024, 1024]  # channels of the authors' six blocks


def test_gates_are_worked_out_channel_by_channel():
    ese = stir(make("ese", 11).double())
    with torch.no_grad():
        ese.fc.bias.copy_(torch.linspace(-5, 5, 11))  # below, between and above the corners
    x = torch.randn(2, 11, 5, 3, dtype=torch.float64)
    expected = torch.empty_like(x)
    for n in range(2):
        for c, z in enumerate(linear(ese.fc, means(x[n]))):
            expected[n, c] = x[n, c] * (min(max(z + 3, 0), 6) / 6)
    torch.testing.assert_close(ese(x), expected, rtol=0, atol=1e-12)
    assert (expected[:, 0] == 0).all()
    assert torch.equal(expected[:, 10], x[:, 10])


def test_the_paper_start_does_not_halve_and_the_identity_start_is_exact():
    x = torch.randn(2, 11, 5, 3)
    assert not torch.allclose(make("ese", 11)(x), x)
    assert torch.equal(make("ese", 11, init="identity")(x), x)


@pytest.mark.parametrize(("channels", "count"), [(64, 4_160), (256, 65_792)])
def test_parameters_of_one_site(channels, count):
    assert lookup("ese").params(channels) == count


def test_parameters_of_a_vovnet39():
    assert sum(lookup("ese").params(c) for c in VOVNET39) == 3_608_832
