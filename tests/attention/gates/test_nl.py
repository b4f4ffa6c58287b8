"""The non-local block's four forms against their equations by plain loops, and authors' totals."""

import math

import pytest
import torch

from attnsurgeon.attention.registry import lookup
from attnsurgeon.errors import MechanismError
from tests.attention.cases import make, stir
from tests.attention.gates.sites import RESNET50
from tests.attention.loops import linear, relu


def weights(nl, form, columns, seen=None):
    """Returns w_ij as lists, from the columns of an image, and of what is seen there."""
    seen = columns if seen is None else seen
    if form == "gaussian":
        q, k = columns, seen
    else:
        q = [linear(nl.query, column) for column in columns]
        k = [linear(nl.key, column) for column in seen]
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


def tiled(image):
    """Returns the columns of the maxima over tiles of 2 x 2 of an image (C, H, W)."""
    _, height, width = image.shape
    corners = [(h, w) for h in range(0, height - 1, 2) for w in range(0, width - 1, 2)]
    return [image[:, h : h + 2, w : w + 2].flatten(1).amax(1).tolist() for h, w in corners]


@pytest.mark.parametrize("size", [(4, 2), (5, 3)])
def test_keys_and_values_can_be_those_of_the_maxima_of_tiles(size):
    nl = stir(make("nl", 6, subsample="before").double())
    x = torch.randn(1, 6, *size, dtype=torch.float64)
    seen = tiled(x[0])
    assert len(seen) == 2
    values = [linear(nl.value, column) for column in seen]
    expected = x.flatten(2).clone()
    columns = [column.tolist() for column in x[0].flatten(1).T]
    for i, row in enumerate(weights(nl, "embedded", columns, seen)):
        found = [sum(w * v[c] for w, v in zip(row, values, strict=True)) for c in range(3)]
        expected[0, :, i] += torch.tensor(linear(nl.out, found), dtype=x.dtype)
    torch.testing.assert_close(nl(x), expected.reshape(x.shape), rtol=0, atol=1e-12)
    other = make("nl", 6, subsample="after").double()  # layers first: of their outputs the maxima
    other.load_state_dict(nl.state_dict())
    assert not torch.allclose(other(x), nl(x))


def test_an_axis_of_one_place_is_not_pooled():
    wide, flat = (stir(make("nl", 6, subsample="before", rank=rank).double()) for rank in (2, 1))
    flat.load_state_dict({n: p.flatten(2)[..., :1] if p.dim() == 4 else p
                          for n, p in wide.state_dict().items()})  # fmt: skip
    x = torch.randn(2, 6, 1, 7, dtype=torch.float64)
    torch.testing.assert_close(wide(x)[:, :, 0], flat(x[:, :, 0]), rtol=0, atol=1e-12)


def test_the_norm_of_the_authors_follows_w_and_is_what_starts_at_zero():
    nl, x = make("nl", 6, norm=True).double().train(), torch.randn(3, 6, 4, 2, dtype=torch.float64)
    assert torch.equal(nl(x), x)
    layer, norm = nl.out
    assert layer.weight.any()
    torch.nn.init.constant_(norm.weight, 2.0)
    plain = make("nl", 6).double()
    names = {n: n.replace("out.", "out.0.") for n in plain.state_dict()}
    plain.load_state_dict({n: nl.state_dict()[name] for n, name in names.items()})
    added = plain(x) - x
    mean, var = added.mean((0, 2, 3), keepdim=True), added.var((0, 2, 3), False, keepdim=True)
    expected = x + 2 * (added - mean) / (var + norm.eps).sqrt()
    torch.testing.assert_close(nl(x), expected, rtol=0, atol=1e-9)


def test_tokens_have_no_tiles():
    with pytest.raises(MechanismError, match=r"tiles need a map[\s\S]*subsample='none'"):
        lookup("nl").args_at((12,), {"subsample": "before"}, rank=2)


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
