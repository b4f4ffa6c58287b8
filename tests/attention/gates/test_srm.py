"""SRM against its equations by plain loops, its start, and published totals."""

import math

import pytest
import torch

from attnsurgeon.attention.registry import lookup
from tests.attention.cases import make, stir
from tests.attention.gates.sites import RESNET50, RESNET50_BRANCHES


def style(values):
    """Returns mean and standard deviation of a list of numbers, as the paper's code has them."""
    center = sum(values) / len(values)
    spread = sum((v - center) ** 2 for v in values) / max(len(values) - 1, 1)
    return center, math.sqrt(spread + 1e-5)


@pytest.mark.parametrize("size", [(5, 3), (1, 1)])
def test_each_channel_is_weighed_alone(size):
    srm = stir(make("srm", 7).double().eval())
    x = torch.randn(2, 7, *size, dtype=torch.float64)
    expected = torch.empty_like(x)
    for n in range(2):
        for c in range(7):
            mean, deviation = style(x[n, c].flatten().tolist())
            z = srm.w[c, 0].item() * mean + srm.w[c, 1].item() * deviation
            scale = srm.norm.weight[c].item() / math.sqrt(srm.norm.running_var[c].item() + 1e-5)
            z = (z - srm.norm.running_mean[c].item()) * scale + srm.norm.bias[c].item()
            expected[n, c] = x[n, c] / (1 + math.exp(-z))
    torch.testing.assert_close(srm(x), expected, rtol=0, atol=1e-12)


def test_one_channel_has_no_say_in_another():
    srm = stir(make("srm", 7).eval())
    x = torch.randn(1, 7, 5, 3)
    y = x.clone()
    y[:, 4] *= 3
    assert torch.equal(srm(x)[:, :4], srm(y)[:, :4])
    assert not torch.allclose(srm(x)[:, 4] * 3, srm(y)[:, 4])


def test_the_paper_start_halves_everything():
    x = torch.randn(2, 7, 5, 3)
    assert torch.equal(make("srm", 7)(x), x / 2)


def test_a_constant_map_has_a_finite_gradient():
    srm = stir(make("srm", 7).eval())
    x = torch.full((2, 7, 5, 3), 0.3, requires_grad=True)
    srm(x).sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()


@pytest.mark.parametrize(("channels", "count"), [(64, 256), (256, 1_024)])
def test_parameters_of_one_site(channels, count):
    assert lookup("srm").params(channels) == count


def test_total_of_a_resnet50():
    assert RESNET50 + sum(lookup("srm").params(c) for c in RESNET50_BRANCHES) == 25_617_448
