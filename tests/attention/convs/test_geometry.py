"""New convolutions beside old ones: the size of the output is that of the old."""

from itertools import product
from typing import Any

import pytest
import torch
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.std_conv import StdConv2dSame
from torch import nn

from attnsurgeon.attention.convs.geometry import alike, keeping
from attnsurgeon.errors import MechanismError


def size(conv, x) -> Any:
    return conv(x).shape[2:]


@pytest.mark.parametrize(
    ("k", "p", "d"), [(3, 1, 1), (3, 0, 1), (3, 2, 2), (1, 0, 1), (5, 2, 1), (3, 2, 1)]
)
def test_another_kernel_makes_maps_of_the_same_size(k, p, d):
    for stride, kernel, dilation in product((1, 2, 3), (3, 5, 9), (1, 2)):
        conv = nn.Conv2d(2, 4, k, stride, p, d, device="meta")
        made = alike(conv, 2, 6, kernel=(kernel,) * 2, dilation=(dilation,) * 2).to("meta")
        assert made.bias is None
        for side in (11, 12):
            x = torch.empty(1, 2, side, side + 3, device="meta")
            assert size(made, x) == size(conv, x), (stride, kernel, dilation, side)
            assert made(x).shape[1] == 6


def test_along_each_axis_the_kernel_is_the_convolutions_own():
    conv, x = nn.Conv2d(2, 4, (1, 7), (2, 1), (0, 3)), torch.randn(1, 2, 9, 11)
    made = alike(conv, 2, 4)
    assert (made.kernel_size, made.padding, made.stride) == ((1, 7), (0, 3), (2, 1))
    assert size(made, x) == size(conv, x)


def test_clips_have_three_axes():
    conv, x = nn.Conv3d(2, 4, (1, 3, 3), (1, 2, 2), (0, 1, 1)), torch.randn(1, 2, 5, 7, 6)
    made = alike(conv, 2, 4, kernel=(3, 5, 5))
    assert isinstance(made, nn.Conv3d)
    assert size(made, x) == size(conv, x)


@pytest.mark.parametrize("side", [7, 8])
@pytest.mark.parametrize("layer", [Conv2dSame, StdConv2dSame])
def test_padding_that_follows_the_input_is_half_the_kernel(layer, side):
    conv, x = layer(2, 4, 3, 2), torch.randn(1, 2, side, side + 1)
    assert tuple(conv.padding) == (0, 0)
    assert size(alike(conv, 2, 4, kernel=(5, 5)), x) == size(conv, x)


def test_words_for_padding_are_understood():
    x = torch.randn(1, 2, 9, 9)
    for words in ("same", "valid"):
        conv = nn.Conv2d(2, 4, 3, padding=words)
        assert size(alike(conv, 2, 4, kernel=(7, 7)), x) == size(conv, x)


def test_what_cannot_be_centred_is_refused():
    even = nn.Conv2d(2, 4, 2, padding=0)
    with pytest.raises(MechanismError, match=r"kernel of \(3, 3\) the output size") as caught:
        alike(even, 2, 4, kernel=(3, 3))
    assert "odd kernels" in caught.value.hint
    assert alike(even, 2, 4, kernel=(4, 4)).padding == (1, 1)


def test_less_than_no_padding_is_refused():
    with pytest.raises(MechanismError, match="no padding"):
        alike(nn.Conv2d(2, 4, 7), 2, 4, kernel=(3, 3))


def test_a_convolution_that_keeps_the_size_has_no_stride():
    conv, x = nn.Conv2d(4, 8, 3, 2, 0, 2, groups=2), torch.randn(1, 4, 9, 7)
    made = keeping(conv, 6, groups=3)
    assert (made.stride, made.dilation, made.padding, made.groups) == ((1, 1), (2, 2), (2, 2), 3)
    assert size(made, torch.randn(1, 6, 9, 7)) == x.shape[2:]
    with pytest.raises(MechanismError, match="no padding"):
        keeping(nn.Conv2d(4, 8, 2), 4)


def test_other_padding_than_with_zeros_is_refused():
    conv = nn.Conv2d(2, 4, 3, padding=1, padding_mode="circular")
    with pytest.raises(MechanismError, match="pads with 'circular'"):
        alike(conv, 2, 4)
