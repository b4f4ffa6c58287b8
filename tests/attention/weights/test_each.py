"""Convolutions with a weight for each image, against a loop over the images."""

import pytest
import torch
from timm.layers.std_conv import StdConv2d
from torch import nn
from torch.nn import functional as F

from attnsurgeon.attention.weights.each import Excited, convolve_each
from attnsurgeon.errors import MechanismError

CONVOLVE = {2: F.conv2d, 3: F.conv3d}
FORMS = [
    {},
    {"stride": 2, "padding": 1},
    {"stride": (1, 2), "padding": (2, 0), "dilation": (2, 1)},
    {"groups": 2},
    {"groups": 4},
    {"padding": "same", "dilation": 2},
    {"padding": "valid"},
]


def one_by_one(x, weight, bias=None, **form):
    convolve = CONVOLVE[x.dim() - 2]
    return torch.cat([convolve(x[n : n + 1], w, bias, **form) for n, w in enumerate(weight)])


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("bias", [None, torch.randn(8, dtype=torch.float64)], ids=["bare", "bias"])
@pytest.mark.parametrize("images", [1, 3])
def test_image_n_is_convolved_with_weight_n(form, bias, images):
    x = torch.randn(images, 4, 7, 5, dtype=torch.float64)
    weight = torch.randn(images, 8, 4 // form.get("groups", 1), 3, 2, dtype=torch.float64)
    made = convolve_each(x, weight, bias, **form)
    torch.testing.assert_close(made, one_by_one(x, weight, bias, **form), rtol=0, atol=1e-12)


def test_clips_are_convolved_too():
    x = torch.randn(2, 4, 3, 7, 5, dtype=torch.float64)
    weight = torch.randn(2, 6, 2, 3, 3, 3, dtype=torch.float64)
    form = {"stride": (1, 2, 2), "padding": 1, "groups": 2}
    made = convolve_each(x, weight, **form)
    torch.testing.assert_close(made, one_by_one(x, weight, **form), rtol=0, atol=1e-12)


def test_the_weights_are_not_mixed_up():
    x, weight = torch.randn(2, 4, 5, 5), torch.randn(2, 8, 4, 3, 3)
    assert not torch.allclose(convolve_each(x, weight), convolve_each(x, weight.flip(0)))


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_a_pair_is_what_all_images_share_and_what_each_adds(form):
    x = torch.randn(3, 4, 7, 5, dtype=torch.float64)
    common = torch.randn(8, 4 // form.get("groups", 1), 3, 2, dtype=torch.float64)
    added, bias = torch.randn(3, *common.shape).double(), torch.randn(8).double()
    made = convolve_each(x, (common, added), bias, **form)
    expected = one_by_one(x, common + added, bias, **form)
    torch.testing.assert_close(made, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("inputs", [3, 64])
def test_a_pair_that_adds_nothing_is_the_common_convolution_to_the_bit(inputs):
    x, common, bias = torch.randn(4, inputs, 9, 7), torch.randn(32, inputs, 3, 3), torch.randn(32)
    nothing = torch.zeros(4, *common.shape)
    made = convolve_each(x, (common, nothing), bias, stride=2, padding=1)
    assert torch.equal(made, F.conv2d(x, common, bias, 2, 1))


@pytest.mark.parametrize("rank", [2, 3])
def test_channels_last_stays(rank):
    form = {2: torch.channels_last, 3: torch.channels_last_3d}[rank]
    x = torch.randn(2, 4, *(3, 7, 5)[-rank:])
    weight = torch.randn(2, 8, 4, *(3,) * rank)
    last = convolve_each(x.to(memory_format=form), weight)
    assert last.is_contiguous(memory_format=form)
    torch.testing.assert_close(last, convolve_each(x, weight))
    assert convolve_each(x, weight).is_contiguous()


def test_gradients_reach_input_weight_and_bias():
    x = torch.randn(2, 2, 4, 3, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, 4, 1, 3, 2, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda *args: convolve_each(*args, stride=2, padding=1, groups=2), (x, weight, bias)
    )


class Negated(nn.Module):
    def forward(self, weight):
        return -weight


class Scaled(nn.Module):
    """Image n has the weight times the mean of image n."""

    def forward(self, weight, x):
        return weight * x.flatten(1).mean(1).reshape(-1, *[1] * weight.dim())


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize("make", [nn.Conv2d, nn.Conv3d])
def test_the_convolution_is_that_of_the_module_with_another_weight(make, mode):
    conv = make(4, 6, 3, 2, 1, groups=2, padding_mode=mode).double()
    x = torch.randn(3, 4, *(5, 7, 6)[-(conv.weight.dim() - 2) :], dtype=torch.float64)
    bias = conv.bias.reshape(-1, *[1] * (x.dim() - 2))
    negated = Excited(conv, Negated(), per_sample=False)(x)
    torch.testing.assert_close(negated - bias, -(conv(x) - bias), rtol=0, atol=1e-12)
    scaled = Excited(conv, Scaled(), per_sample=True)(x)
    for n, image in enumerate(x):
        expected = (conv(image[None]) - bias) * image.mean() + bias
        torch.testing.assert_close(scaled[n : n + 1], expected, rtol=0, atol=1e-12)


def test_the_weight_is_the_modules_own_and_learns():
    conv = nn.Conv2d(4, 6, 3)
    module = Excited(conv, Negated(), per_sample=False)
    module(torch.randn(2, 4, 5, 5)).square().sum().backward()
    assert module.conv is conv
    assert conv.weight.grad.any()


def test_a_convolution_that_does_more_is_refused():
    with pytest.raises(MechanismError, match="StdConv2d has a forward of its own") as caught:
        Excited(StdConv2d(4, 6, 3), Negated(), per_sample=False)
    assert "network" in caught.value.hint
