"""ACON: what its forms become at the ends of the switch, and published totals."""

import torch

from attnsurgeon.attention.registry import lookup
from tests.attention.cases import make, stir

RESNET50_3X3 = [64] * 3 + [128] * 4 + [256] * 6 + [512] * 3


def test_a_sharp_switch_takes_the_larger_of_two_lines_and_a_dull_one_their_mean():
    acon = make("acon", 6, form="c").double()
    x = torch.randn(2, 6, 5, 3, dtype=torch.float64)
    first, second = (p[:, None, None] * x for p in (acon.p1, acon.p2))
    torch.nn.init.constant_(acon.beta, 1e6)
    torch.testing.assert_close(acon(x), torch.maximum(first, second), rtol=0, atol=1e-4)
    torch.nn.init.zeros_(acon.beta)
    torch.testing.assert_close(acon(x), (first + second) / 2)


def test_the_switch_of_the_meta_form_follows_from_the_means_of_each_image():
    acon = stir(make("acon", 6).double().eval())
    x = torch.randn(2, 6, 5, 3, dtype=torch.float64)
    z = acon.norm1(acon.fc1(x.mean((2, 3))))
    beta = torch.sigmoid(acon.norm2(acon.fc2(z)))[:, :, None, None]
    p1, p2 = (p[:, None, None] for p in (acon.p1, acon.p2))
    expected = (p1 - p2) * x * torch.sigmoid(beta * (p1 - p2) * x) + p2 * x
    torch.testing.assert_close(acon(x), expected)


def test_the_hidden_layer_is_never_narrower_than_the_reduction():
    assert make("acon", 64).fc1.out_features == 16
    assert make("acon", 512).fc1.out_features == 32


def test_parameters_in_the_authors_resnet50():
    acon = lookup("acon")
    assert acon.params(64) == 2 * 64 + 2 * 64 * 16 + 16 + 64 + 2 * 16 + 2 * 64
    assert sum(acon.params(c, form="c") for c in RESNET50_3X3) == 3 * sum(RESNET50_3X3)
