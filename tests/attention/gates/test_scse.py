"""scSE against its equations by plain loops, with its maximum's ties, and its totals."""

import math

import pytest
import torch

from attnsurgeon.attention.gates.scse import winner
from attnsurgeon.attention.registry import lookup
from tests.attention.cases import make, stir
from tests.attention.gates.sites import RESNET50_BRANCHES


def sigmoid(z):
    return 1 / (1 + math.exp(-z))


def test_the_larger_of_two_gated_copies_is_kept():
    scse = stir(make("scse", 7, reduction=3).double())
    x = torch.randn(2, 7, 5, 3, dtype=torch.float64)
    expected = torch.empty_like(x)
    for n in range(2):
        means = x[n].flatten(1).sum(1) / 15
        hidden = (scse.fc1.weight @ means + scse.fc1.bias).clamp(min=0)
        logits = (scse.fc2.weight @ hidden + scse.fc2.bias).tolist()
        for h in range(5):
            for w in range(3):
                dot = (scse.conv.weight[0, :, 0, 0] * x[n, :, h, w]).sum() + scse.conv.bias[0]
                for c in range(7):
                    value = x[n, c, h, w].item()
                    copies = value * sigmoid(logits[c]), value * sigmoid(dot.item())
                    expected[n, c, h, w] = max(copies)
    torch.testing.assert_close(scse(x), expected, rtol=0, atol=1e-12)


def both_ways(x, c, s):
    """Returns value and gradients of the product with the winner, and of the maximum itself."""
    results = []
    for function in (lambda: x * winner(x, c, s), lambda: torch.maximum(x * c, x * s)):
        y = function()
        results.append((y, *torch.autograd.grad((y * torch.arange(y.numel())).sum(), (x, c, s))))
    return results


def test_the_winner_has_the_gradients_of_a_maximum_also_on_ties():
    x = torch.tensor([2.0, -2.0, 0.0, 3.0, -3.0], dtype=torch.float64, requires_grad=True)
    c = torch.tensor([0.3, 0.3, 0.3, 0.5, 0.5], dtype=torch.float64, requires_grad=True)
    s = torch.tensor([0.7, 0.7, 0.7, 0.5, 0.5], dtype=torch.float64, requires_grad=True)
    ours, theirs = both_ways(x, c, s)
    assert ours[0].tolist() == [1.4, -0.6, 0.0, 1.5, -1.5]
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_both_gates_learn_from_an_identity_start():
    scse = make("scse", 8, init="identity")
    scse(torch.randn(2, 8, 5, 3)).square().sum().backward()
    assert scse.fc2.bias.grad.any()
    assert scse.conv.bias.grad.any()


@pytest.mark.parametrize(("channels", "count"), [(64, 4_257), (256, 66_177)])
def test_parameters_of_one_site(channels, count):
    assert lookup("scse").params(channels) == count


def test_totals_of_a_resnet50():
    scse = lookup("scse")
    assert sum(scse.params(c) for c in RESNET50_BRANCHES) == 20_157_328
    assert sum(scse.params(c, reduction=16) for c in RESNET50_BRANCHES) == 2_546_112


def test_the_defaults_are_the_authors():
    assert dict(lookup("scse").args) == {"reduction": 2}
