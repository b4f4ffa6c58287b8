"""Double attention against its equation by plain loops."""

import math

import pytest
import torch

from attnsurgeon.attention.registry import lookup
from tests.attention.cases import make, stir
from tests.attention.loops import linear


def softmax(values):
    powers = [math.exp(v) for v in values]
    return [p / sum(powers) for p in powers]


@pytest.mark.parametrize("over", ["vectors", "positions"])
@pytest.mark.parametrize("size", [(5,), (3, 2), (2, 1, 3)])
def test_positions_take_shares_of_gathered_vectors(over, size):
    a2 = stir(make("a2", 6, rank=len(size), over=over).double())
    x = torch.randn(2, 6, *size, dtype=torch.float64)
    expected = x.flatten(2).clone()
    for n in range(2):
        columns = [column.tolist() for column in x[n].flatten(1).T]
        features = [linear(a2.feature, column) for column in columns]
        gather = [
            softmax(row) for row in zip(*(linear(a2.gather, c) for c in columns), strict=True)
        ]
        vectors = [
            [sum(w * f[c] for w, f in zip(row, features, strict=True)) for c in range(3)]
            for row in gather
        ]
        taken = [linear(a2.distribute, column) for column in columns]
        if over == "vectors":
            taken = [softmax(row) for row in taken]
        else:
            taken = list(zip(*(softmax(row) for row in zip(*taken, strict=True)), strict=True))
        for i, shares in enumerate(taken):
            z = [sum(s * v[c] for s, v in zip(shares, vectors, strict=True)) for c in range(3)]
            expected[n, :, i] += torch.tensor(linear(a2.out, z), dtype=x.dtype)
    torch.testing.assert_close(a2(x), expected.reshape(x.shape), rtol=0, atol=1e-12)


def test_parameters_of_one_site():
    assert lookup("a2").params(512) == 3 * (512 * 256 + 256) + 256 * 512 + 512 == 525_568
