"""SE against its equation by plain loops, and against published totals."""

import math

import pytest
import torch

from attnsurgeon.attention.registry import lookup
from tests.attention.cases import make, stir
from tests.attention.gates.sites import RESNET50, RESNET50_BRANCHES


@pytest.mark.parametrize("bias", [True, False])
def test_gates_are_worked_out_channel_by_channel(bias):
    se = stir(make("se", 11, reduction=3, bias=bias).double())
    x = torch.randn(2, 11, 5, 3, dtype=torch.float64)
    expected = torch.empty_like(x)
    for n in range(2):
        means = [x[n, c].sum().item() / 15 for c in range(11)]
        hidden = []
        for j in range(3):
            total = sum(w * m for w, m in zip(se.fc1.weight[j].tolist(), means, strict=True))
            hidden.append(max(total + (se.fc1.bias[j].item() if bias else 0), 0))
        for c in range(11):
            logit = sum(w * h for w, h in zip(se.fc2.weight[c].tolist(), hidden, strict=True))
            logit += se.fc2.bias[c].item() if bias else 0
            expected[n, c] = x[n, c] / (1 + math.exp(-logit))
    torch.testing.assert_close(se(x), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("channels", "with_bias"), [(64, 580), (256, 8_464)])
def test_parameters_of_one_site(channels, with_bias):
    assert lookup("se").params(channels) == with_bias
    assert lookup("se").params(channels, bias=False) == with_bias - channels - channels // 16


def test_totals_of_a_resnet50():
    se = lookup("se")
    assert RESNET50 + sum(se.params(c) for c in RESNET50_BRANCHES) == 28_088_024
    assert RESNET50 + sum(se.params(c, bias=False) for c in RESNET50_BRANCHES) == 28_071_976


def test_the_hidden_width_may_be_given_itself():
    se = make("se", 64, hidden=8)
    assert se.fc1.out_features == 8
    assert lookup("se").params(64, hidden=8) == 1_096


def test_a_volume_is_gated_like_the_image_it_unrolls_to():
    flat, deep = make("se", 32), make("se", 32, rank=3)
    deep.load_state_dict(flat.state_dict())
    x = torch.randn(2, 32, 3, 7, 5)
    torch.testing.assert_close(deep(x), flat(x.flatten(2, 3)).reshape(x.shape))


def test_the_defaults_are_the_authors():
    assert dict(lookup("se").args) == {"reduction": 16, "bias": True, "hidden": None}
