"""CSRA against its equations by plain loops, its temperatures, and what its heads start from."""

import math

import pytest
import torch
from torch import nn

from attnsurgeon.attention.heads.csra import adopt
from attnsurgeon.attention.registry import create_part, lookup
from attnsurgeon.errors import MechanismError
from tests.attention.cases import make, params, stir
from tests.attention.loops import means

PUBLISHED = {
    1: (1,),
    2: (1, 99),
    4: (1, 2, 4, 99),
    6: (1, 2, 3, 4, 5, 99),
    8: (1, 2, 3, 4, 5, 6, 7, 99),
}


def score(weight, image, lam, temperature):
    """Returns the score of one class by one head for an image (C, ...)."""
    norm = math.sqrt(sum(w * w for w in weight))
    found = [
        sum(w * v for w, v in zip(weight, values, strict=True)) / norm
        for values in image.flatten(1).T.tolist()
    ]
    if temperature == 99:
        attended = max(found)
    else:
        shares = [math.exp(temperature * s) for s in found]
        attended = sum(s * share for s, share in zip(found, shares, strict=True)) / sum(shares)
    return sum(found) / len(found) + lam * attended


@pytest.mark.parametrize("heads", PUBLISHED)
@pytest.mark.parametrize("size", [(5, 3), (1, 1), (2, 3, 2)])
def test_every_class_attends_to_positions_of_its_own(heads, size):
    csra = make("csra", 11, rank=len(size), classes=3, heads=heads, lam=0.3).double()
    stir(csra)
    x = torch.randn(2, 11, *size, dtype=torch.float64)
    expected = torch.zeros(2, 3, dtype=torch.float64)
    for n in range(2):
        for c in range(3):
            for head, temperature in enumerate(PUBLISHED[heads]):
                expected[n, c] += score(csra.weight[head, c].tolist(), x[n], 0.3, temperature)
    torch.testing.assert_close(csra(x), expected, rtol=0, atol=1e-12)


def test_the_oracle_tells_temperatures_apart():
    weight, image = [1.0, -0.5], torch.randn(2, 5, 3)
    assert len({score(weight, image, 0.3, t) for t in (1, 2, 99)}) == 3


@pytest.mark.parametrize("heads", PUBLISHED)
def test_parameters_for_imagenet(heads):
    assert lookup("csra").params(2048, classes=1000, heads=heads) == heads * 2_048_000
    assert params(make("csra", 16, classes=10, heads=heads)) == heads * 160


def test_without_the_attended_score_it_is_a_normed_classifier_of_the_means():
    csra = make("csra", 11, classes=3, lam=0.0).double()
    x = torch.randn(2, 11, 5, 3, dtype=torch.float64)
    unit = csra.weight[0] / csra.weight[0].norm(dim=1, keepdim=True)
    pooled = torch.tensor([means(image) for image in x], dtype=torch.float64)
    torch.testing.assert_close(csra(x), pooled @ unit.T, rtol=0, atol=1e-12)


def test_the_length_of_a_weight_does_not_matter_and_zero_is_finite():
    csra, x = make("csra", 11, classes=3).double(), torch.randn(2, 11, 5, 3, dtype=torch.float64)
    expected = csra(x)
    with torch.no_grad():
        csra.weight[0, 1] *= 5
        torch.testing.assert_close(csra(x), expected, rtol=0, atol=1e-12)
        csra.weight[0, 1] = 0
    y = csra(x)
    y.square().sum().backward()
    assert torch.equal(y[:, 1], torch.zeros(2, dtype=torch.float64))
    torch.testing.assert_close(y[:, ::2], expected[:, ::2], rtol=0, atol=1e-12)
    assert csra.weight.grad.isfinite().all()


@pytest.mark.parametrize("replaced", [nn.Linear(11, 3), nn.Conv2d(11, 3, 1, bias=False)])
def test_every_head_starts_from_the_weight_of_the_classifier(replaced):
    csra = make("csra", 11, classes=3, heads=4)
    adopt(csra, replaced)
    for head in csra.weight:
        assert torch.equal(head, replaced.weight.flatten(1))
    assert csra.weight.requires_grad


@pytest.mark.parametrize("replaced", [nn.Linear(99, 3), nn.Linear(11, 4)])
def test_a_classifier_of_other_features_leaves_the_heads_as_they_are(replaced):
    csra = make("csra", 11, classes=3)
    before = csra.weight.clone()
    adopt(csra, replaced)
    assert torch.equal(csra.weight, before)


def test_in_a_network_the_scores_that_are_there_go_over_into_its_own():
    part = create_part("csra", 11, init="identity", classes=3)
    inner, g = part.get_submodule("inner"), part.get_parameter("g")
    x, old = torch.randn(2, 11, 5, 3), torch.randn(2, 3)
    assert torch.equal(part(x, old), old)
    nn.init.ones_(g)
    torch.testing.assert_close(part(x, old), inner(x))


def test_alone_it_starts_as_a_classifier_of_the_means():
    csra, x = make("csra", 11, classes=3, heads=2, init="identity"), torch.randn(2, 11, 5, 3)
    linear = csra.base[1]
    torch.testing.assert_close(csra(x), linear(x.mean((2, 3))))
    assert torch.equal(csra.inner.weight, linear.weight.expand(2, 3, 11))
    assert params(csra) == params(csra.inner) + params(linear) + 1


def test_a_plan_gives_the_number_of_classes():
    card = lookup("csra")
    assert card.args_at((7, 7), {"lam": 0.5}, classes=10) == {"classes": 10, "lam": 0.5}
    assert card.inputs({}) == ("map",)
    assert card.adopt is adopt


def test_heads_without_published_temperatures_are_refused():
    with pytest.raises(MechanismError, match="heads=3 is not one of 1, 2, 4, 6, 8"):
        make("csra", 11, classes=3, heads=3)


def test_it_says_what_no_parameter_shows():
    assert "lam=0.5, temperatures=(1, 99)" in repr(make("csra", 8, classes=2, heads=2, lam=0.5))
