"""Dynamic ReLU against its equation by plain loops."""

import math

import pytest
import torch

from attnsurgeon.attention.activations.dyrelu import highest
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


@pytest.mark.parametrize(("channels", "lines"), [(3, 2), (1, 3)])
def test_the_largest_line_has_gradients_of_both_orders_and_keeps_the_input_alone(channels, lines):
    def drawn(*shape):
        return torch.randn(*shape, dtype=torch.float64, requires_grad=True)

    given = [drawn(2, 3, 2, 2), *(drawn(2, channels, 1, 1) for _ in range(2 * lines))]
    assert torch.autograd.gradcheck(highest, given)
    assert torch.autograd.gradgradcheck(highest, given)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(kept.append, lambda kept: kept):
        highest(*given)
    assert [tuple(t.shape) for t in kept] == [tuple(t.shape) for t in given]


def test_equal_lines_share_the_gradient():
    x = torch.tensor([[[[2.0, -1.0]]]], requires_grad=True)
    slopes = [torch.tensor([[[[a]]]], requires_grad=True) for a in (3.0, 0.0)]
    heights = [torch.zeros(1, 1, 1, 1), torch.full((1, 1, 1, 1), 6.0)]
    highest(x, *slopes, *heights).sum().backward()  # 3 x and 6 are equal at 2; 6 is larger at -1
    assert x.grad is not None
    assert x.grad.tolist() == [[[[1.5, 0.0]]]]
    assert [s.grad.item() for s in slopes] == [1.0, 0.0]
