"""GC against its equation by plain loops, its start, and the totals of authors' networks."""

import math

import pytest
import torch

from attnsurgeon.attention.registry import lookup
from attnsurgeon.errors import MechanismError
from tests.attention.cases import make, stir
from tests.attention.gates.sites import RESNET50, RESNET50_BRANCHES
from tests.attention.loops import linear, means, relu


def context(gc, image):
    """Returns the pooled values of (C, ...), by a softmax over positions or as means."""
    if not hasattr(gc.pool, "weight"):
        return means(image)
    columns = [column.tolist() for column in image.flatten(1).T]
    scores = [math.exp(linear(gc.pool, column)[0]) for column in columns]
    weights = [score / sum(scores) for score in scores]
    return [
        sum(w * column[c] for w, column in zip(weights, columns, strict=True))
        for c in range(len(image))
    ]


def transformed(layers, values):
    """Returns what the bottleneck makes of one value a channel."""
    z = linear(layers.fc1, values)
    center = sum(z) / len(z)
    spread = math.sqrt(sum((v - center) ** 2 for v in z) / len(z) + 1e-5)
    z = [(v - center) / spread for v in z]
    scale, shift = layers.norm.weight.tolist(), layers.norm.bias.tolist()
    return linear(layers.fc2, relu([v * a + b for v, a, b in zip(z, scale, shift, strict=True)]))


@pytest.mark.parametrize("pool", ["attention", "mean"])
@pytest.mark.parametrize("fusion", ["add", "scale", "both"])
@pytest.mark.parametrize("size", [(5, 3), (1, 1), (2, 4, 3)])
def test_the_context_is_gathered_transformed_and_joined(pool, fusion, size):
    gc = stir(make("gc", 11, rank=len(size), reduction=3, pool=pool, fusion=fusion).double())
    x = torch.randn(2, 11, *size, dtype=torch.float64)
    expected = x.clone()
    for n in range(2):
        found = context(gc, x[n])
        if fusion != "add":
            for c, z in enumerate(transformed(gc.scale, found)):
                expected[n, c] /= 1 + math.exp(-z)
        if fusion != "scale":
            for c, z in enumerate(transformed(gc.add, found)):
                expected[n, c] += z
    torch.testing.assert_close(gc(x), expected, rtol=0, atol=1e-12)


def test_it_starts_as_the_identity_also_as_its_authors_start_it_but_where_it_scales():
    x = torch.randn(2, 32, 5, 3)
    assert torch.equal(make("gc", 32)(x), x)
    assert torch.equal(make("gc", 32, fusion="scale")(x), x / 2)
    assert torch.equal(make("gc", 32, fusion="both", init="identity")(x), x)


def test_the_bias_of_the_scores_changes_nothing():
    gc, x = stir(make("gc", 32).double()), torch.randn(2, 32, 5, 3).double()
    before = gc(x)
    torch.nn.init.constant_(gc.pool.bias, 3.0)
    torch.testing.assert_close(gc(x), before, rtol=0, atol=1e-12)
    torch.nn.init.constant_(gc.pool.weight, 3.0)
    assert not torch.allclose(gc(x), before)


def test_a_single_hidden_unit_is_refused_with_what_works():
    with pytest.raises(MechanismError, match="reduction=16 leaves a layer norm") as caught:
        make("gc", 31)
    assert "reduction=15" in str(caught.value)
    make("gc", 31, reduction=15)


@pytest.mark.parametrize(
    ("args", "count"),
    [
        ({}, 2 * 256 * 16 + 16 + 256 + 2 * 16 + 257),
        ({"pool": "mean"}, 2 * 256 * 16 + 16 + 256 + 2 * 16),
        ({"fusion": "both"}, 2 * (2 * 256 * 16 + 16 + 256 + 2 * 16) + 257),
    ],
)
def test_parameters_of_one_site(args, count):
    assert lookup("gc").params(256, **args) == count


def test_totals_of_a_resnet50_with_one_in_c4_and_with_all_of_c3_to_c5():
    gc = lookup("gc")
    assert RESNET50 + gc.params(1024) == 25_690_345
    assert RESNET50 + sum(gc.params(c) for c in RESNET50_BRANCHES[3:]) == 28_078_773
