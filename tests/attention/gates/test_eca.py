"""ECA against its equation by plain loops, and its kernel against the authors' networks."""

import math

import pytest
import torch
from timm.layers.eca import CecaModule, EcaModule

from attnsurgeon.attention.gates.eca import adaptive_kernel
from attnsurgeon.attention.registry import lookup
from attnsurgeon.errors import MechanismError
from tests.attention.cases import make
from tests.attention.gates.sites import RESNET50, RESNET50_BRANCHES

KERNELS = [(1, 1), (16, 3), (64, 3), (128, 5), (256, 5), (512, 5), (1024, 5), (2048, 7)]


@pytest.mark.parametrize(("channels", "k"), KERNELS)
def test_the_kernel_grows_with_the_logarithm_of_the_channels(channels, k):
    assert adaptive_kernel(channels) == k
    assert lookup("eca").params(channels) == k


def test_a_gate_is_a_sigmoid_of_neighbouring_means():
    eca = make("eca", 11, kernel_size=5).double()
    x = torch.randn(2, 11, 5, 3, dtype=torch.float64)
    w = eca.conv.weight.flatten().tolist()
    expected = torch.empty_like(x)
    for n in range(2):
        means = [x[n, c].sum().item() / 15 for c in range(11)]
        for c in range(11):
            near = range(c - 2, c + 3)
            logit = sum(w[i] * means[b] for i, b in enumerate(near) if 0 <= b < 11)
            expected[n, c] = x[n, c] / (1 + math.exp(-logit))
    torch.testing.assert_close(eca(x), expected, rtol=0, atol=1e-12)


def test_totals_of_a_resnet50_by_formula_and_as_the_authors_set_it():
    assert RESNET50 + sum(lookup("eca").params(c) for c in RESNET50_BRANCHES) == 25_557_118
    by_hand = {256: 3, 512: 5, 1024: 5, 2048: 7}
    total = sum(lookup("eca").params(c, kernel_size=by_hand[c]) for c in RESNET50_BRANCHES)
    assert RESNET50 + total == 25_557_112


def test_a_channel_beyond_the_kernel_has_no_say():
    eca = make("eca", 64, kernel_size=3)
    x = torch.randn(1, 64, 5, 7)
    y = x.clone()
    y[:, 40] += 5
    changed = (eca(x) / x - eca(y) / y).abs().amax((0, 2, 3)) > 1e-6
    assert changed.nonzero().flatten().tolist() == [39, 40, 41]


@pytest.mark.parametrize(
    ("args", "theirs"),
    [
        ({"padding": "circular"}, CecaModule(64)),
        ({"hidden": 8}, EcaModule(64, use_mlp=True)),
    ],
    ids=["ceca", "ecam"],
)
def test_two_forms_are_those_of_timm(args, theirs):
    eca, x = make("eca", 64, **args), torch.randn(2, 64, 5, 7)
    for ours, value in zip(eca.parameters(), theirs.parameters(), strict=True):
        ours.data.copy_(value)
    torch.testing.assert_close(eca(x), theirs(x))
    count = sum(p.numel() for p in theirs.parameters())
    assert lookup("eca").params(64, **args) == count == (3 if "padding" in args else 41)


def test_around_the_end_the_first_and_the_last_channel_are_neighbours():
    x = torch.randn(1, 16, 5, 7)
    y = x.clone()
    y[:, 0] += 5
    for padding, near in (("zeros", [0, 1]), ("circular", [0, 1, 15])):
        eca = make("eca", 16, kernel_size=3, padding=padding)
        changed = (eca(x) / x - eca(y) / y).abs().amax((0, 2, 3)) > 1e-6
        assert changed.nonzero().flatten().tolist() == near


def test_a_kernel_that_goes_around_twice_is_refused_with_the_largest_that_does_not():
    with pytest.raises(MechanismError, match="kernel_size=7") as caught:
        make("eca", 2, kernel_size=7, padding="circular")
    assert "kernel_size=5" in str(caught.value)
    make("eca", 2, kernel_size=5, padding="circular")(torch.randn(1, 2, 3, 3))


def test_the_defaults_are_the_authors():
    assert dict(lookup("eca").args) == {"kernel_size": None, "padding": "zeros", "hidden": 0}
