"""The non-local block's four forms against their equations by plain loops, and authors' totals."""

import math

import pytest
import torch

from attnsurgeon.attention.registry import lookup
from attnsurgeon.errors import MechanismError
from tests.attention.cases import make, stir
from tests.attention.gates.sites import RESNET50
from tests.attention.loops import linear, relu


def weights(nl, form, columns):
    """Returns w_ij as lists, from the columns of an image."""
    if form == "gaussian":
        q = k = columns
    else:
        q, k = ([linear(layer, column) for column in columns] for layer in (nl.query, nl.key))
    if form == "concatenation":
        pair = nl.pair.tolist()
        scores = [[sum(p * v for p, v in zip(pair, a + b, strict=True)) for b in k] for a in q]
        return [[v / len(k) for v in relu(row)] for row in scores]
    scores = [[sum(s * t for s, t in zip(a, b, strict=True)) for b in k] for a in q]
    if form == "dot":
        return [[v / len(k) for v in row] for row in scores]
    scale = math.sqrt(len(q[0])) if form == "embedded" and nl.scale != 1 else 1.0
    powers = [[math.exp(v / scale) for v in row] for row in scores]
    return [[v / sum(row) for v in row] for row in powers]


@pytest.mark.parametrize("form", ["embedded", "gaussian", "dot", "concatenation"])
@pytest.mark.parametrize("size", [(5,), (3, 2), (1, 1), (2, 1, 3)])
def test_each_position_adds_what_it_finds_at_all(form, size):
    nl = stir(make("nl", 6, rank=len(size), form=form).double())
    x = torch.randn(2, 6, *size, dtype=torch.float64)
    expected = x.flatten(2).clone()
    for n in range(2):
        columns = [column.tolist() for column in x[n].flatten(1).T]
        values = [linear(nl.value, column) for column in columns]
        for i, row in enumerate(weights(nl, form, columns)):
            found = [sum(w * v[c] for w, v in zip(row, values, strict=True)) for c in range(3)]
            expected[n, :, i] += torch.tensor(linear(nl.out, found), dtype=x.dtype)
    torch.testing.assert_close(nl(x), expected.reshape(x.shape), rtol=0, atol=1e-12)


def test_without_a_scale_it_is_another_function():
    x = torch.randn(2, 6, 3, 2)
    scaled, plain = stir(make("nl", 6)), make("nl", 6, scale=False)
    plain.load_state_dict(scaled.state_dict())
    assert not torch.allclose(scaled(x), plain(x))


def test_a_form_that_there_is_not_is_refused():
    with pytest.raises(MechanismError, match="form='max'"):
        make("nl", 6, form="max")


def test_the_total_of_a_resnet50_with_one_in_c4():
    assert RESNET50 + lookup("nl").params(1024) == 27_656_744
