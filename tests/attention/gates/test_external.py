"""External attention: its two softmax-like normalisations, its ReLU and its parameters."""

import torch

from attnsurgeon.attention.identity import Blend
from attnsurgeon.attention.registry import lookup
from tests.attention.cases import make, stir
from tests.attention.loops import linear, normalised


def test_two_layers_in_a_row_are_the_same_as_one_after_the_other():
    made = stir(make("external", 6, memory=4).double().eval())
    x = torch.randn(2, 6, 3, 2, dtype=torch.float64)
    expected = x.flatten(2).clone()
    for n in range(2):
        queries = [linear(made.query, column.tolist()) for column in x[n].flatten(1).T]
        scores = torch.tensor(queries, dtype=torch.float64) @ made.keys.T  # (P, S)
        weights = scores.exp() / scores.exp().sum(0)
        weights = weights / (1e-9 + weights.sum(1, keepdim=True))
        for i, row in enumerate((weights @ made.values.T).tolist()):
            found = normalised(made.norm, linear(made.out, row))
            expected[n, :, i] += torch.tensor(found, dtype=x.dtype)
    torch.testing.assert_close(made(x), expected.reshape(x.shape), rtol=0, atol=1e-12)


def test_a_relu_behind_the_sum_is_blended_in():
    x = torch.randn(2, 16, 5, 3)
    blended = make("external", 16, relu=True, init="identity")
    assert isinstance(blended, Blend)
    assert torch.equal(blended(x), x)
    assert (make("external", 16, relu=True)(x) >= 0).all()
    assert not isinstance(make("external", 16, init="identity"), Blend)


def test_parameters_in_the_authors_head():
    assert lookup("external").params(512) == 2 * 512**2 + 512 + 2 * 64 * 512 + 2 * 512
