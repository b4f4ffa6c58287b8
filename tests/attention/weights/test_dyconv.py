"""Dynamic convolution against its equation, image by image, and its temperature."""

import torch
from torch import nn
from torch.nn import functional as F

from attnsurgeon.attention.registry import create_attention, lookup
from tests.attention.cases import stir


def test_dyconv_mixes_by_a_softmax_that_the_temperature_flattens():
    conv = nn.Conv2d(8, 6, 3, bias=False)
    made = stir(create_attention("dyconv", conv=conv, temperature=2.0).double())
    part, x = made.excitation, torch.randn(2, 8, 5, 4, dtype=torch.float64)
    scores = part.fc2(torch.relu(part.fc1(x.mean((2, 3))))) / 2
    shares = scores.exp() / scores.exp().sum(1, keepdim=True)
    kernels = (made.conv.weight, *part.experts.kernels)
    for n in range(2):
        weight = sum(a * w for a, w in zip(shares[n], kernels, strict=True))
        torch.testing.assert_close(made(x)[n : n + 1], F.conv2d(x[n : n + 1], weight))
    part.temperature = 1e9
    mean = torch.stack([k.detach() for k in kernels]).mean(0)
    torch.testing.assert_close(made(x), F.conv2d(x, mean), rtol=0, atol=1e-6)


def test_parameters_of_one_site():
    assert lookup("dyconv").params(nn.Conv2d(64, 64, 3)) == 64 * 17 + 17 * 4 + 4 + 3 * 36_864
