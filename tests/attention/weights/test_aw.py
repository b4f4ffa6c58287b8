"""AW-convolution against its equations by plain loops, image by image."""

import math

import pytest
import torch
from torch import nn

from attnsurgeon.attention.registry import create_attention, create_part, lookup
from attnsurgeon.errors import MechanismError
from tests.attention.cases import params, stir
from tests.attention.convs.oracle import convolved, normalised
from tests.attention.convs.sites import RESNET50, RESNET50_WIDTHS, conv3x3

AW = lookup("aw")


def pooled(x, rows, columns):
    """Returns the means over windows of nearly one size that cover (C, H, W)."""
    channels, height, width = x.shape
    made = torch.empty(channels, rows, columns, dtype=x.dtype)
    for i in range(rows):
        for j in range(columns):
            top, bottom = i * height // rows, -(-(i + 1) * height // rows)
            left, right = j * width // columns, -(-(j + 1) * width // columns)
            made[:, i, j] = x[:, top:bottom, left:right].flatten(1).mean(1)
    return made


def attention(aw, x, rows, columns):
    """Returns the map (C * maps, rows, columns) of one image."""
    squeezed = normalised(aw.norm1, convolved(aw.conv1.weight, pooled(x, rows, columns)))
    logits = normalised(aw.norm2, convolved(aw.conv2.weight, squeezed.clamp(min=0)))
    return logits.clone().apply_(lambda z: 1 / (1 + math.exp(-z)))


@pytest.mark.parametrize("size", [(7, 5), (2, 6), (1, 1)])
@pytest.mark.parametrize(("shared", "residual"), [(None, True), (2, True), (1, False)])
@pytest.mark.parametrize("groups", [1, 2])
def test_each_image_is_convolved_with_its_own_kernel(size, shared, residual, groups):
    conv = nn.Conv2d(8, 4, (3, 2), 2, 1, groups=groups).double()
    module = create_attention(
        "aw", conv=conv, reduction=4, shared=shared, residual=residual
    )  # fmt: skip
    aw = stir(module.double().eval()).excitation
    x = torch.randn(2, 8, *size, dtype=torch.float64)
    expected = []
    for image in x:
        gates, kernel = attention(aw, image, 3, 2), conv.weight.detach().clone()
        columns = 8 // groups
        maps = columns // (shared or columns)
        for o in range(4):
            for c in range(columns):
                gate = gates[o * maps + c // (shared or columns)]
                kernel[o, c] *= gate + 1 if residual else gate
        form = {"stride": 2, "padding": (1, 1), "groups": groups, "bias": conv.bias}
        expected.append(convolved(kernel, image, **form))
    torch.testing.assert_close(module(x), torch.stack(expected), rtol=0, atol=1e-12)


def test_under_the_identity_the_map_is_between_minus_one_and_one():
    conv, x = nn.Conv2d(8, 4, 3, padding=1).double(), torch.randn(2, 8, 5, 7).double()
    aw = stir(create_part("aw", conv, init="identity", reduction=4).double().eval())
    weight = conv.weight.detach()
    common, change = aw(weight, x)
    assert common is weight
    for n, image in enumerate(x):
        gates = 2 * attention(aw, image, 3, 3) - 1
        torch.testing.assert_close(change[n], weight * gates[:, None], rtol=0, atol=1e-12)


def test_images_have_weights_of_their_own():
    conv, x = nn.Conv2d(16, 4, 3), torch.randn(3, 16, 5, 7)
    weight = create_part("aw", conv).eval()(conv.weight, x)
    assert weight.shape == (3, 4, 16, 3, 3)
    assert not torch.allclose(weight[0], weight[1])


def test_a_kernel_of_one_place_sees_the_mean_of_the_map():
    conv, x = nn.Conv2d(16, 4, 1).double(), torch.randn(2, 16, 5, 7).double()
    aw = stir(create_part("aw", conv).double().eval())
    means = x.mean((2, 3), keepdim=True)
    torch.testing.assert_close(aw(conv.weight, x), aw(conv.weight, means), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("conv", "shared", "count"),
    [
        (nn.Conv2d(64, 128, 3), None, 64 * 4 + 8 + 4 * 128 + 256),
        (nn.Conv2d(64, 128, 3), 16, 64 * 4 + 8 + 4 * 128 * 4 + 256 * 4),
        (nn.Conv2d(64, 128, 3, groups=4), 16, 64 * 4 + 8 + 4 * 128 + 256),
        (nn.Conv3d(64, 128, 3), None, 64 * 4 + 8 + 4 * 128 + 256),
    ],
)
def test_parameters_of_one_site(conv, shared, count):
    assert AW.params(conv, shared=shared) == count == params(create_part("aw", conv, shared=shared))


def test_the_generator_costs_a_resnet50_little():
    assert RESNET50 + sum(AW.params(conv3x3(p)) for p in RESNET50_WIDTHS) == 25_722_240


@pytest.mark.parametrize(
    ("conv", "args", "what"),
    [
        (nn.Conv2d(3, 8, 3), {}, "reduction=16 leaves no hidden channel out of 3"),
        (nn.Conv2d(16, 8, 3), {"shared": 5}, "shared=5 does not divide the kernel's 16 input"),
        (nn.Conv2d(16, 8, 3, groups=4), {"shared": 8}, "shared=8 does not divide the kernel's 4"),
    ],
)
def test_what_does_not_divide_is_refused(conv, args, what):
    with pytest.raises(MechanismError, match=what) as caught:
        create_part("aw", conv, **args)
    assert caught.value.hint


def test_the_defaults_are_the_papers():
    assert dict(AW.args) == {"reduction": 16, "shared": None, "residual": True}
    assert AW.per_sample
