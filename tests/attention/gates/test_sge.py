"""SGE against its equations by plain loops, where the authors' code is undefined, and totals."""

import math

import pytest
import torch

from attnsurgeon.attention.registry import lookup
from attnsurgeon.errors import MechanismError
from tests.attention.cases import FORMATS, gradients, make, stir
from tests.attention.gates.sites import RESNET50, RESNET50_BRANCHES


def gates(group, weight, bias):
    """Returns the gate of every position of a group, a list of channels of equal length."""
    count = len(group[0])
    centers = [sum(channel) / count for channel in group]
    agreement = [sum(m * c[p] for m, c in zip(centers, group, strict=True)) for p in range(count)]
    center = sum(agreement) / count
    spread = sum((t - center) ** 2 for t in agreement) / max(count - 1, 1)
    scaled = [(t - center) / (math.sqrt(spread) + 1e-5) for t in agreement]
    return [1 / (1 + math.exp(-weight * t - bias)) for t in scaled]


@pytest.mark.parametrize("size", [(5, 3), (2, 5, 3), (1, 1)])
@pytest.mark.parametrize("groups", [1, 3, 12])
@pytest.mark.parametrize("last", [False, True])
def test_positions_are_gated_by_their_agreement_with_the_mean(size, groups, last):
    sge = stir(make("sge", 12, rank=len(size), groups=groups).double())
    x = 1 + torch.randn(2, 12, *size, dtype=torch.float64)
    x = x.contiguous(memory_format=FORMATS[len(size)]) if last else x
    expected = torch.empty_like(x)
    for n in range(2):
        for g, group in enumerate(x[n].flatten(1).split(12 // groups)):
            gate = gates(group.tolist(), sge.weight[g].item(), sge.bias[g].item())
            start = g * (12 // groups)
            for c in range(start, start + 12 // groups):
                expected[n, c] = x[n, c] * x.new_tensor(gate).reshape(size)
    torch.testing.assert_close(sge(x), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("last", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_gradients_of_the_first_and_second_order(last):
    sge = stir(make("sge", 6, groups=2).double())
    x = torch.randn(2, 6, 2, 3, dtype=torch.float64)
    x = (x.contiguous(memory_format=torch.channels_last) if last else x).requires_grad_()
    assert torch.autograd.gradcheck(sge, (x,), fast_mode=True)
    assert torch.autograd.gradgradcheck(sge, (x,), fast_mode=True)


@pytest.mark.parametrize("size", [(1, 1), (7, 5)])
def test_a_map_without_deviation_is_gated_by_the_bias_alone(size):
    sge = make("sge", 64)
    x = torch.full((2, 64, *size), 3.0)
    y, grads = gradients(sge, x)
    torch.testing.assert_close(y, x / (1 + math.exp(-1)))
    assert all(g.isfinite().all() for g in grads)


def test_products_are_not_rounded_by_autocast():
    sge, x = stir(make("sge", 64)), 10 + 0.01 * torch.randn(2, 64, 7, 5)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(sge(x), sge.float()(x))


@pytest.mark.parametrize(("channels", "groups"), [(64, 64), (2048, 64), (96, 32), (24, 8), (7, 1)])
def test_the_number_of_groups_divides_the_channels(channels, groups):
    assert make("sge", channels).groups == groups
    assert lookup("sge").params(channels) == 2 * groups


def test_groups_that_do_not_divide_the_channels_are_refused_with_a_number_that_does():
    with pytest.raises(MechanismError, match=r"groups=64 do not divide 96 channels") as caught:
        make("sge", 96, groups=64)
    assert caught.value.hint
    assert "groups=48" in caught.value.hint
    assert make("sge", 96, groups=48).groups == 48


def test_total_of_a_resnet50():
    assert RESNET50 + sum(lookup("sge").params(c) for c in RESNET50_BRANCHES) == 25_559_080
