"""Involution against its equation by plain loops."""

import pytest
import torch
from torch import nn

from attnsurgeon.attention.registry import create_attention, lookup
from attnsurgeon.errors import MechanismError
from tests.attention.cases import stir
from tests.attention.convs.oracle import convolved, normalised


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("dilation", [1, 2])
def test_each_position_is_summed_by_a_kernel_of_its_own(stride, dilation):
    conv = nn.Conv2d(6, 6, 3, stride, dilation, dilation, bias=False)
    made = stir(
        create_attention("involution", conv=conv, kernel_size=3, share=2, reduction=2)
        .double()
        .eval()
    )
    x = torch.randn(2, 6, 5, 4, dtype=torch.float64)
    expected = []
    for image in x:
        rows, columns = -(-5 // stride), -(-4 // stride)
        pooled = torch.stack([
            image[:, h * stride : (h + 1) * stride, w * stride : (w + 1) * stride].mean((1, 2))
            for h in range(rows) for w in range(columns)
        ], dim=1).reshape(6, rows, columns)  # fmt: skip
        hidden = normalised(made.norm, convolved(made.reduce.weight, pooled)).clamp(min=0)
        kernels = convolved(made.span.weight, hidden, bias=made.span.bias)
        y = torch.zeros(6, rows, columns, dtype=x.dtype)
        for c in range(6):
            for h in range(rows):
                for w in range(columns):
                    for i in range(3):
                        for j in range(3):
                            a = h * stride + (i - 1) * dilation
                            b = w * stride + (j - 1) * dilation
                            if 0 <= a < 5 and 0 <= b < 4:
                                tap = kernels[c // 2 * 9 + 3 * i + j, h, w]
                                y[c, h, w] += tap * image[c, a, b]
        expected.append(y)
    torch.testing.assert_close(made(x), torch.stack(expected), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("channels", "groups"), [(64, 4), (24, 2), (7, 1)])
def test_sixteen_channels_share_a_kernel_or_the_most_that_can(channels, groups):
    made = create_attention("involution", conv=nn.Conv2d(channels, channels, 3, padding=1))
    assert made.groups == groups


def test_parameters_of_one_site():
    conv = nn.Conv2d(64, 64, 3, padding=1, bias=False)
    assert lookup("involution").params(conv) == 64 * 16 + 32 + 16 * 49 * 4 + 49 * 4


@pytest.mark.parametrize(
    ("conv", "what"),
    [
        (nn.Conv2d(64, 32, 3, padding=1), "makes 32 of 64"),
        (nn.Conv2d(64, 64, 3), "leaves some out"),
        (nn.Conv2d(64, 64, 3, padding=2), "leaves some out"),
    ],
)
def test_a_convolution_whose_place_it_cannot_take_is_refused(conv, what):
    with pytest.raises(MechanismError, match=what) as caught:
        create_attention("involution", conv=conv)
    assert caught.value.hint
