"""SA against its equations by plain loops, its shuffle, its groups, and published totals."""

import math

import pytest
import torch

from attnsurgeon.attention.registry import lookup
from attnsurgeon.errors import MechanismError
from tests.attention.cases import gradients, make, params, stir
from tests.attention.gates.sites import RESNET50, RESNET50_BRANCHES


def sigmoid(z):
    return 1 / (1 + math.exp(-z))


def gated_by_loops(sa, image):
    """Returns an image (C, ...) gated channel by channel, in the order in which they come."""
    channels, c = len(image), len(sa.channel_weight)
    result = torch.empty_like(image)
    for q in range(channels):
        place, k = divmod(q, c)  # the halves of all groups one after the other
        values = image[q].flatten().tolist()
        center = sum(values) / len(values)
        if place % 2 == 0:
            gate = sigmoid(sa.channel_weight[k].item() * center + sa.channel_bias[k].item())
            result[q] = image[q] * gate
            continue
        spread = sum((v - center) ** 2 for v in values) / len(values)
        gated = []
        for v in values:
            normed = (v - center) / math.sqrt(spread + 1e-5)
            normed = sa.norm_weight[k].item() * normed + sa.norm_bias[k].item()
            gated.append(
                v * sigmoid(sa.spatial_weight[k].item() * normed + sa.spatial_bias[k].item())
            )
        result[q] = image.new_tensor(gated).reshape(image[q].shape)
    return result


@pytest.mark.parametrize("size", [(5, 3), (2, 5, 3), (1, 1)])
def test_halves_of_groups_are_gated_and_the_channels_interleaved(size):
    sa = stir(make("sa", 12, rank=len(size), groups=3).double())
    x = 2 + torch.randn(2, 12, *size, dtype=torch.float64)
    expected = torch.empty_like(x)
    for n in range(2):
        gated = gated_by_loops(sa, x[n])
        for q in range(6):
            expected[n, 2 * q], expected[n, 2 * q + 1] = gated[q], gated[6 + q]
    torch.testing.assert_close(sa(x), expected, rtol=0, atol=1e-12)


def test_under_the_identity_start_the_channels_keep_their_order():
    sa, twin = make("sa", 12, groups=3, init="identity"), make("sa", 12, groups=3)
    twin.load_state_dict(stir(sa).state_dict())
    x = torch.randn(2, 12, 5, 3)
    gated = torch.stack([2 * gated_by_loops(sa.double(), image.double()) for image in x])
    torch.testing.assert_close(sa(x.double()), gated)
    assert not torch.allclose(twin(x).double() * 2, gated)


def test_gradients_are_those_of_plain_operations():
    sa = stir(make("sa", 8, groups=2).double())
    x = torch.randn(3, 8, 5, 3, dtype=torch.float64)

    def plain(x):
        halves = x.unflatten(1, (2, 2, 2))
        first, second = halves[:, :, 0], halves[:, :, 1]
        w, b, v, c, g, h = (
            z[:, None, None]
            for z in (
                sa.channel_weight,
                sa.channel_bias,
                sa.spatial_weight,
                sa.spatial_bias,
                sa.norm_weight,
                sa.norm_bias,
            )
        )
        first = first * (w * first.mean((3, 4), keepdim=True) + b).sigmoid()
        center = second.mean((3, 4), keepdim=True)
        spread = (second - center).square().mean((3, 4), keepdim=True)
        normed = g * (second - center) / (spread + 1e-5).sqrt() + h
        second = second * (v * normed + c).sigmoid()
        y = torch.stack((first, second), dim=2).flatten(1, 3)
        return y.unflatten(1, (2, 4)).transpose(1, 2).flatten(1, 2)

    plain.parameters = sa.parameters
    torch.testing.assert_close(gradients(sa, x), gradients(plain, x), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(
    ("channels", "groups"),
    [(2048, 64), (128, 64), (64, 32), (24, 12), (320, 40), (10, 5), (2, 1)],
)
def test_there_are_64_groups_or_as_many_as_the_channels_allow(channels, groups):
    assert make("sa", channels).groups == groups
    assert lookup("sa").params(channels) == 6 * channels // (2 * groups)


@pytest.mark.parametrize(
    ("channels", "args", "message"),
    [
        (64, {"groups": 64}, "groups=64 do not divide 64 channels evenly into 2 parts each"),
        (24, {"groups": 5}, "groups=4$"),
        (7, {}, "7 channels do not divide into 2 parts"),
        (7, {"groups": 1}, "multiples of 2"),
    ],
)
def test_groups_that_do_not_divide_the_channels_are_refused(channels, args, message):
    with pytest.raises(MechanismError, match=message):
        make("sa", channels, **args)


def test_total_of_a_resnet50():
    assert RESNET50 + sum(lookup("sa").params(c) for c in RESNET50_BRANCHES) == 25_557_740
    assert params(make("sa", 256)) == 12
