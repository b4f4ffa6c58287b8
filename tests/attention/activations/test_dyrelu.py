"""Dynamic ReLU against its equation by plain loops."""

import math

import pytest
import torch

from attnsurgeon.attention.registry import lookup
from tests.attention.cases import make, stir
from tests.attention.loops import linear, means, relu


@pytest.mark.parametrize("form", ["A", "B"])
@pytest.mark.parametrize("lines", [2, 3])
def test_the_largest_of_the_lines_of_each_image_is_taken(form, lines):
    made = stir(make("dyrelu", 6, form=form, lines=lines, reduction=2).double())
    x = torch.randn(2, 6, 5, 3, dtype=torch.float64)
    expected = torch.empty_like(x)
    for n in range(2):
        z = linear(made.fc2, relu(linear(made.fc1, means(x[n]))))
        t = [2 / (1 + math.exp(-v)) - 1 for v in z]
        for c in range(6):
            own = t[2 * lines * c : 2 * lines * (c + 1)] if form == "B" else t
            for h in range(5):
                for w in range(3):
                    v = x[n, c, h, w].item()
                    heights = [((j == 0) + own[j]) * v + own[lines + j] / 2 for j in range(lines)]
                    expected[n, c, h, w] = max(heights)
    torch.testing.assert_close(made(x), expected, rtol=0, atol=1e-12)


def test_without_a_second_layer_it_is_a_relu():
    made, x = make("dyrelu", 16), torch.randn(2, 16, 5, 3)
    torch.nn.init.zeros_(made.fc2.weight)
    torch.nn.init.zeros_(made.fc2.bias)
    assert torch.equal(made(x), x.relu())


@pytest.mark.parametrize(
    ("form", "count"), [("A", 64 * 8 + 8 + 8 * 4 + 4), ("B", 64 * 8 + 8 + 256 * 8 + 256)]
)
def test_parameters_of_one_site(form, count):
    assert lookup("dyrelu").params(64, form=form) == count
