"""FReLU against its equation by plain loops."""

import pytest
import torch

from attnsurgeon.attention.registry import lookup
from attnsurgeon.errors import MechanismError
from tests.attention.cases import make, stir


def test_the_larger_of_a_value_and_its_window_passes():
    frelu = stir(make("frelu", 3).double().eval())
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    expected = x.clone()
    for n, c, h, w in torch.cartesian_prod(*map(torch.arange, x.shape)).tolist():
        seen = 0.0
        for i in range(3):
            for j in range(3):
                if 0 <= h + i - 1 < 4 and 0 <= w + j - 1 < 5:
                    seen += frelu.conv.weight[c, 0, i, j].item() * x[n, c, h + i - 1, w + j - 1]
        norm = frelu.norm
        seen = (seen - norm.running_mean[c]) / torch.sqrt(norm.running_var[c] + norm.eps)
        expected[n, c, h, w] = max(x[n, c, h, w], seen * norm.weight[c] + norm.bias[c])
    torch.testing.assert_close(frelu(x), expected, rtol=0, atol=1e-12)


def test_with_a_norm_of_zero_it_is_a_relu():
    frelu, x = make("frelu", 3), torch.randn(2, 3, 4, 5)
    torch.nn.init.zeros_(frelu.norm.weight)
    assert torch.equal(frelu(x), x.relu())


def test_an_even_window_is_refused():
    with pytest.raises(MechanismError, match="kernel_size=2 has no centre"):
        make("frelu", 3, kernel_size=2)


@pytest.mark.parametrize(("rank", "count"), [(1, 5 * 64), (2, 11 * 64), (3, 29 * 64)])
def test_parameters_of_one_site(rank, count):
    assert lookup("frelu").params(64, rank=rank) == count
