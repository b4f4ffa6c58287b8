"""SC against its equations by plain loops, and against the published total."""

import pytest
import torch
from torch import nn

from attnsurgeon.attention.registry import create_attention, lookup
from attnsurgeon.errors import MechanismError
from tests.attention.cases import params, stir
from tests.attention.convs.oracle import convolved, normalised
from tests.attention.convs.sites import RESNET50, RESNET50_WIDTHS, conv3x3

SC = lookup("sc")


def make(conv, **args):
    return create_attention("sc", conv=conv, **args)


def block(normed, x, **form):
    """Returns a convolution and its batch norm, of one image."""
    return normalised(normed[1], convolved(normed[0].weight, x, **form))


def calibrated(sc, x, pooling, stride, **form):
    """Returns the calibrated convolution of one image (C, H, W), by loops."""
    channels, height, width = x.shape
    rows, columns = min(pooling, height), min(pooling, width)
    means = torch.empty(channels, height // rows, width // columns, dtype=x.dtype)
    for i in range(height // rows):
        for j in range(width // columns):
            window = x[:, i * rows : (i + 1) * rows, j * columns : (j + 1) * columns]
            means[:, i, j] = window.sum((1, 2)) / (rows * columns)
    far = block(sc.k2, means, **form)
    near = block(sc.k3, x, **form)
    for h in range(height):
        for w in range(width):
            seen = far[:, h * far.shape[1] // height, w * far.shape[2] // width]
            near[:, h, w] /= 1 + torch.exp(-x[:, h, w] - seen)
    return block(sc.k4, near, stride=stride, **form)


@pytest.mark.parametrize("size", [(7, 4), (2, 5), (1, 1)])
@pytest.mark.parametrize(("stride", "step", "groups"), [(1, 1, 1), (2, 1, 2), (1, 2, 1)])
def test_a_convolution_is_gated_by_its_far_view(size, stride, step, groups):
    conv = nn.Conv2d(4, 6, 3, stride, step, step, groups=groups, bias=False)
    sc = stir(make(conv, pooling=3).double().eval())
    x = torch.randn(2, 4, *size, dtype=torch.float64)
    form = {"padding": (step, step), "dilation": (step, step), "groups": groups}
    expected = torch.stack([calibrated(sc, image, 3, stride, **form) for image in x])
    torch.testing.assert_close(sc(x), expected, rtol=0, atol=1e-12)


def test_the_gradient_of_one_image_is_that_of_finite_differences():
    """Its far view is 2 x 1: strides of which torch's batch norm would take a wrong gradient."""
    sc = stir(make(nn.Conv2d(6, 6, 3, padding=1, bias=False)).double().train())
    x, way = (torch.randn(1, 6, 8, 4, dtype=torch.float64) for _ in range(2))
    weights = torch.randn(1, 6, 8, 4, dtype=torch.float64)
    with torch.no_grad():
        apart = [(sc(x + step * way) * weights).sum() for step in (1e-6, -1e-6)]
    x.requires_grad_()
    (grad,) = torch.autograd.grad((sc(x) * weights).sum(), x)
    expected = (apart[0] - apart[1]).item() / 2e-6
    assert (grad * way).sum().item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("stride", "groups"), [(1, 1), (2, 1), (2, 4)])
def test_a_split_convolves_the_first_half_plainly(stride, groups):
    conv = nn.Conv2d(8, 8, 3, stride, 1, groups=groups, bias=False)
    sc = stir(make(conv, split=True, pooling=2).double().eval())
    x = torch.randn(2, 8, 5, 6, dtype=torch.float64)
    form = {"padding": (1, 1), "groups": max(groups // 2, 1)}
    expected = torch.stack(
        [
            torch.cat(
                [
                    block(sc.k1, image[:4], stride=stride, **form),
                    calibrated(sc, image[4:], 2, stride, **form),
                ]
            )
            for image in x
        ]
    )
    torch.testing.assert_close(sc(x), expected, rtol=0, atol=1e-12)


def test_total_of_a_resnet50():
    total = RESNET50
    for width in RESNET50_WIDTHS:
        conv = conv3x3(width)
        args = SC.args_at((14, 14), {}, conv=conv)
        total += SC.params(conv, **args) - params(conv) - 2 * width
    assert total == 25_564_584
    assert SC.swallows_norm


@pytest.mark.parametrize(("split", "count"), [(False, 110_976), (True, 37_120)])
def test_parameters_of_one_site(split, count):
    conv = nn.Conv2d(64, 64, 3)
    assert SC.params(conv, split=split) == count == params(make(conv, split=split))


def test_the_channels_are_halved_where_they_can_be_and_the_user_does_not_say_otherwise():
    assert SC.args_at((14, 14), {}, conv=nn.Conv2d(6, 8, 3)) == {"split": True}
    assert SC.args_at((14, 14), {"split": False}, conv=nn.Conv2d(6, 8, 3)) == {"split": False}
    for conv in (nn.Conv2d(3, 8, 3), nn.Conv2d(8, 3, 3), nn.Conv2d(6, 6, 3, groups=3)):
        assert SC.args_at((14, 14), {}, conv=conv) == {}
        with pytest.raises(MechanismError, match="cannot be halved") as caught:
            make(conv, split=True)
        assert "split=False" in caught.value.hint


def test_an_even_kernel_is_refused():
    with pytest.raises(MechanismError, match="no padding"):
        make(nn.Conv2d(8, 8, 4, 2, 1))


def test_the_defaults_are_the_authors():
    assert dict(SC.args) == {"pooling": 4, "split": False}
