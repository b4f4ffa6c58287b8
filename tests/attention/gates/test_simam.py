"""SimAM against its equation by plain loops, and where the authors' code is undefined."""

import math

import pytest
import torch

from attnsurgeon.attention.registry import lookup
from tests.attention.cases import make


@pytest.mark.parametrize("size", [(5, 3), (2, 5, 3)])
@pytest.mark.parametrize("e_lambda", [1e-4, 0.1])
def test_values_far_from_the_mean_are_kept(size, e_lambda):
    simam = make("simam", 7, rank=len(size), e_lambda=e_lambda)
    x = 3 + torch.randn(2, 7, *size, dtype=torch.float64)
    expected = torch.empty_like(x)
    for n in range(2):
        for c in range(7):
            values = x[n, c].flatten().tolist()
            center = sum(values) / len(values)
            spread = sum((v - center) ** 2 for v in values) / (len(values) - 1)
            gated = []
            for v in values:
                energy = (v - center) ** 2 / (4 * (spread + e_lambda)) + 0.5
                gated.append(v / (1 + math.exp(-energy)))
            expected[n, c] = x.new_tensor(gated).reshape(size)
    torch.testing.assert_close(simam(x), expected, rtol=0, atol=1e-12)


def test_one_position_and_constant_maps_have_the_lowest_gate():
    simam, lowest = make("simam", 5), 1 / (1 + math.exp(-0.5))
    for x in (torch.randn(2, 5, 1, 1), torch.full((2, 5, 7, 3), -2.0)):
        torch.testing.assert_close(simam(x), x * lowest)


def test_half_precision_values_whose_squares_overflow_are_gated_well():
    simam, x = make("simam", 5), 1000 * torch.randn(2, 5, 7, 3).half()
    torch.testing.assert_close(simam(x).float(), simam(x.float()), rtol=2e-3, atol=0)


def test_it_has_no_parameters():
    assert lookup("simam").params(64) == 0
    assert list(make("simam", 64).parameters()) == []


def test_the_defaults_are_the_authors():
    assert dict(lookup("simam").args) == {"e_lambda": 1e-4}
