"""Generalized attention against its equation by plain loops, term by term, and authors' totals."""

import itertools
import math

import pytest
import torch

from attnsurgeon.attention.registry import lookup
from attnsurgeon.errors import MechanismError
from attnsurgeon.rules.document import read_document
from tests.attention.cases import make, stir
from tests.attention.gates.sites import RESNET50
from tests.attention.loops import linear

TYPES = ["".join(digits) for digits in itertools.product("01", repeat=4)][1:]


def dot(a, b):
    return sum(s * t for s, t in zip(a, b, strict=True))


def split(values, heads):
    """Returns the values of each head."""
    width = len(values) // heads
    return [values[h * width : (h + 1) * width] for h in range(heads)]


def wave(distance, waves):
    """Returns sines and then cosines of a distance, ever slower."""
    turns = [distance / 1000 ** (4 * n / waves) for n in range(waves // 4)]
    return [math.sin(t) for t in turns] + [math.cos(t) for t in turns]


def scores(m, digits, x, i, j, *, waves, magnitude=1):
    """Returns e_ij of each head, of an image and the indices of two positions."""
    column = x[(slice(None), *i)].tolist()
    key = x[(slice(None), *j)].tolist()
    q = split(linear(m.query, column), m.heads) if m.query is not None else None
    k = split(linear(m.key, key), m.heads) if m.key is not None else None
    u, v = (split(z.tolist(), m.heads) if z is not None else None for z in (m.u, m.v))
    r = None
    if len(m.distances):
        apart = [linear(layer, wave(magnitude * (a - b), waves))
                 for layer, a, b in zip(m.distances, i, j, strict=True)]  # fmt: skip
        r = split([sum(parts) / math.sqrt(len(i)) for parts in zip(*apart, strict=True)], m.heads)
    pairs = [(q, k), (q, r), (u, k), (v, r)]
    wanted = [pair for pair, digit in zip(pairs, digits, strict=True) if digit == "1"]
    return [sum(dot(a[h], b[h]) for a, b in wanted) for h in range(m.heads)]


def found(m, digits, x, i, keys, **more):
    """Returns what position i adds to itself."""
    rows = [scores(m, digits, x, i, j, **more) for j in keys]
    values = [split(linear(m.value, x[(slice(None), *j)].tolist()), m.heads) for j in keys]
    joined = []
    for h in range(m.heads):
        powers = [math.exp(row[h]) for row in rows]
        shares = [p / sum(powers) for p in powers]
        joined += [dot(shares, line) for line in zip(*(v[h] for v in values), strict=True)]
    return [m.gamma.item() * z for z in linear(m.out, joined)]


def every(size, stride=1):
    """Returns the indices of every so many-th position."""
    return list(itertools.product(*(range(0, side, stride) for side in size)))


def stirred(channels, **args):
    module = stir(make("generalized", channels, **args).double())
    torch.nn.init.constant_(module.gamma, 0.7)
    return module


def expected(m, digits, x, keys, **more):
    """Returns the output of one image, each position alone; `keys` are those that i sees."""
    y = x.clone()
    for i in every(x.shape[1:]):
        y[(slice(None), *i)] += torch.tensor(found(m, digits, x, i, keys(i), **more), dtype=x.dtype)
    return y


@pytest.mark.parametrize("digits", TYPES)
def test_all_fifteen_sets_of_terms_are_those_of_the_equation(digits):
    m, size = stirred(8, attention_type=digits, heads=2), (3, 4)
    x = torch.randn(2, 8, *size, dtype=torch.float64)
    keys = every(size, 2)
    assert len(keys) == 4
    wanted = torch.stack([expected(m, digits, image, lambda i: keys, waves=8) for image in x])
    torch.testing.assert_close(m(x), wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [(5,), (1, 1), (2, 1, 3)])
def test_any_rank_has_a_distance_along_each_axis(size):
    m = stirred(8, heads=2, kv_stride=1, rank=len(size))
    x = torch.randn(8, *size, dtype=torch.float64)
    wanted = expected(m, "1111", x, lambda i: every(size), waves=8)
    torch.testing.assert_close(m(x[None])[0], wanted, rtol=0, atol=1e-12)


def test_heads_need_not_divide_the_channels_and_distances_may_be_embedded_otherwise():
    m = stirred(8, heads=3, position_embedding_dim=12, position_magnitude=2.5)
    assert m.query.weight.shape == (6, 8, 1, 1)
    assert m.distances[0].weight.shape == (6, 6)
    x = torch.randn(8, 2, 3, dtype=torch.float64)
    wanted = expected(m, "1111", x, lambda i: every((2, 3), 2), waves=12, magnitude=2.5)
    torch.testing.assert_close(m(x[None])[0], wanted, rtol=0, atol=1e-12)


# Of six places, which keys each sees within 1: as the authors count, one place more behind than
# before; of every second place those that floor((i - 1) / 2) to floor((i + 2) / 2) number.
SEEN = {
    1: [[0, 1, 2], [0, 1, 2, 3], [1, 2, 3, 4], [2, 3, 4, 5], [3, 4, 5], [4, 5]],
    2: [[0, 2], [0, 2], [0, 2, 4], [2, 4], [2, 4], [4]],
}


@pytest.mark.parametrize("stride", SEEN)
@pytest.mark.parametrize("digits", ["1111", "0010"])
def test_a_position_may_see_a_range_alone(stride, digits):
    m = stirred(8, heads=2, kv_stride=stride, spatial_range=1, attention_type=digits)
    x = torch.randn(8, 6, 3, dtype=torch.float64)
    across = [[j for j in seen if j < 3] for seen in SEEN[stride]]

    def keys(i):
        return list(itertools.product(SEEN[stride][i[0]], across[i[1]]))

    wanted = expected(m, digits, x, keys, waves=8)
    torch.testing.assert_close(m(x[None])[0], wanted, rtol=0, atol=1e-12)


def test_queries_of_every_second_position_are_interpolated():
    m, x = stirred(8, heads=2, q_stride=2), torch.randn(8, 5, 4, dtype=torch.float64)
    asked = [found(m, "1111", x, i, every((5, 4), 2), waves=8) for i in every((5, 4), 2)]
    small = torch.tensor(asked, dtype=x.dtype).T.reshape(1, 8, 3, 2)
    large = torch.nn.functional.interpolate(small, (5, 4), mode="bilinear")
    torch.testing.assert_close(m(x[None]), x + large, rtol=0, atol=1e-12)


def test_the_content_of_the_keys_alone_adds_the_same_everywhere():
    x = torch.randn(2, 8, 6, 5, dtype=torch.float64)
    for args in ({}, {"q_stride": 2}):
        added = stirred(8, heads=2, attention_type="0010", **args)(x) - x
        torch.testing.assert_close(added, added[:, :, :1, :1].expand_as(x), rtol=0, atol=1e-12)
    added = stirred(8, heads=2, attention_type="0011")(x) - x
    assert not torch.allclose(added, added[:, :, :1, :1].expand_as(x))


def test_the_terms_have_the_parameters_that_they_need():
    def names(digits):
        return {name.partition(".")[0] for name, _ in make(
            "generalized", 8, attention_type=digits).named_parameters()}  # fmt: skip

    always = {"value", "out", "gamma"}
    assert names("1000") == always | {"query", "key"}
    assert names("0100") == always | {"query", "distances"}
    assert names("0010") == always | {"key", "u"}
    assert names("0001") == always | {"distances", "v"}


@pytest.mark.parametrize("attention_type", ["111", "11111", "1211", "", "four", 10, 12, 111, 11111])
def test_what_is_not_four_digits_is_refused(attention_type):
    with pytest.raises(MechanismError, match=r"is not four digits[\s\S]*'0010'"):
        make("generalized", 8, attention_type=attention_type)


def test_four_zeros_are_refused():
    with pytest.raises(MechanismError, match="compares nothing"):
        make("generalized", 8, attention_type="0000")


@pytest.mark.parametrize("written", ["1111", "1010", "'1010'", "'0010'", "'0001'"])
def test_digits_in_a_rule_file_are_what_was_written(written):
    read = read_document(f"attention_type: {written}", source="mine.yaml").data["attention_type"]
    digits = written.strip("'")
    assert make("generalized", 8, attention_type=read).terms == tuple(d == "1" for d in digits)


def test_sines_and_cosines_of_two_axes_need_a_multiple_of_four():
    with pytest.raises(MechanismError, match=r"=10 is no multiple of 4[\s\S]*=12"):
        make("generalized", 10)
    make("generalized", 10, position_embedding_dim=12)
    make("generalized", 10, attention_type="1010")  # has no distances


def test_more_heads_than_channels_are_refused():
    with pytest.raises(MechanismError, match="largest that works here is heads=4"):
        make("generalized", 4)


# mmdetection, configs/empirical_attention: behind the 3x3 of each block of c4 and c5, where a
# ResNet-50 has 256 and 512 channels, mmcv's module has 328,449 and 1,312,257 parameters; with 0010
# it is 197,121 and 787,457.
@pytest.mark.parametrize(("digits", "total"), [("1111", 31_464_497), ("0010", 29_102_129)])
def test_the_total_of_a_resnet50_of_the_authors(digits, total):
    params = lookup("generalized").params
    added = [params(c, attention_type=digits) for c in [256] * 6 + [512] * 3]
    assert RESNET50 + sum(added) == total
