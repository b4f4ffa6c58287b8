"""ULSAM against its equations by plain loops, a group at a time, and its counts."""

import math
from itertools import product

import pytest
import torch

from attnsurgeon.attention.registry import lookup
from attnsurgeon.errors import MechanismError
from tests.attention.cases import make, params, stir


def norm_of(norm, channel, z):
    """Returns one channel of a batch norm, in eval mode."""
    z = (z - norm.running_mean[channel].item()) / math.sqrt(norm.running_var[channel].item() + 1e-5)
    return z * norm.weight[channel].item() + norm.bias[channel].item()


def map_of(ulsam, image, g):
    """Returns the weights of the positions for group `g` of an image (C, ...), by loops."""
    size, c = image.shape[1:], ulsam.point.shape[1]
    places = list(product(*(range(n) for n in size)))
    scores = []
    for place in places:
        score = ulsam.point_bias[g].item()
        for k in range(c):
            channel, values = g * c + k, []
            for step in product((-1, 0, 1), repeat=len(size)):
                at = tuple(p + s for p, s in zip(place, step, strict=True))
                if all(0 <= a < n for a, n in zip(at, size, strict=True)):
                    z = image[(channel, *at)].item()
                    z = ulsam.weight[channel].item() * z + ulsam.bias[channel].item()
                    values.append(max(norm_of(ulsam.norm, channel, z), 0.0))
            score += ulsam.point[g, k].item() * max(values)
        scores.append(max(norm_of(ulsam.point_norm, g, score), 0.0))
    total = sum(math.exp(s) for s in scores)
    return image.new_tensor([math.exp(s) / total for s in scores]).reshape(size)


@pytest.mark.parametrize("size", [(5, 3), (1, 4), (2, 4, 3)])
def test_each_group_is_lit_by_its_own_map(size):
    ulsam = stir(make("ulsam", 6, rank=len(size), groups=2).double()).eval()
    x = 2 * torch.randn(2, 6, *size, dtype=torch.float64)
    expected = torch.empty_like(x)
    for n, g in product(range(2), range(2)):
        part = x[n, 3 * g : 3 * g + 3]
        lit = map_of(ulsam, x[n], g)
        assert math.isclose(lit.sum().item(), 1)
        expected[n, 3 * g : 3 * g + 3] = part + lit * part
    torch.testing.assert_close(ulsam(x), expected, rtol=0, atol=1e-12)


def test_one_position_is_doubled():
    x = torch.randn(2, 8, 1, 1)
    torch.testing.assert_close(make("ulsam", 8).eval()(x), 2 * x)


@pytest.mark.parametrize(("groups", "count"), [(1, 323), (4, 332), (8, 344)])
def test_parameters_of_one_site(groups, count):
    assert count == 5 * 64 + 3 * groups
    assert lookup("ulsam").params(64, groups=groups) == count
    assert params(make("ulsam", 64, groups=groups)) == count


def test_groups_that_do_not_divide_the_channels_are_refused():
    with pytest.raises(MechanismError, match=r"groups=5 do not divide 64 channels evenly"):
        make("ulsam", 64, groups=5)


def test_the_layers_start_within_the_bounds_of_their_inputs():
    ulsam = make("ulsam", 256)
    for parameter, bound in ((ulsam.weight, 1), (ulsam.bias, 1), (ulsam.point, 1 / 8)):
        assert 0.8 * bound < parameter.abs().max() <= bound
