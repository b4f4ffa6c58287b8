"""Criss-cross attention against its equation by plain loops, its start, and its counts."""

import math
from itertools import product

import pytest
import torch

from attnsurgeon.attention.registry import lookup
from attnsurgeon.errors import MechanismError
from tests.attention.cases import make, params, stir


def linear(conv, image):
    """Returns W x + b at every position of (C, ...), by a product a position."""
    weight = conv.weight.flatten(1)
    columns = [weight @ z + conv.bias for z in image.flatten(1).T]
    return torch.stack(columns, dim=1).unflatten(1, image.shape[1:])


def once(attention, image):
    """Returns gamma * attention + x for one image (C, ...), position by position."""
    q, k, v = (linear(conv, image) for conv in (attention.query, attention.key, attention.value))
    size = image.shape[1:]
    y = torch.empty_like(image)
    for place in product(*(range(n) for n in size)):
        seen = {place}  # each once, also the position itself
        for axis, n in enumerate(size):
            seen |= {(*place[:axis], other, *place[axis + 1 :]) for other in range(n)}
        assert len(seen) == sum(size) - len(size) + 1
        scores = {
            other: float(q[(slice(None), *place)] @ k[(slice(None), *other)]) for other in seen
        }
        total = sum(math.exp(score) for score in scores.values())
        found = sum(math.exp(scores[other]) / total * v[(slice(None), *other)] for other in seen)
        y[(slice(None), *place)] = image[(slice(None), *place)] + attention.gamma * found
    return y


@pytest.mark.parametrize("size", [(5, 3), (1, 4), (2, 4, 3)])
@pytest.mark.parametrize("recurrence", [1, 2])
def test_each_position_attends_to_the_lines_through_it(size, recurrence):
    attention = make("crisscross", 7, rank=len(size), reduction=3, recurrence=recurrence)
    stir(attention.double())
    torch.nn.init.constant_(attention.gamma, 0.7)
    x = torch.randn(2, 7, *size, dtype=torch.float64)
    with torch.no_grad():
        expected = x
        for _ in range(recurrence):
            expected = torch.stack([once(attention, image) for image in expected])
    torch.testing.assert_close(attention(x), expected, rtol=0, atol=1e-12)


def test_two_rounds_let_every_position_see_every_other():
    for recurrence, blind in ((1, True), (2, False)):
        attention = make("crisscross", 8, recurrence=recurrence)
        torch.nn.init.ones_(attention.gamma)
        x = torch.randn(1, 8, 4, 5, requires_grad=True)
        (grad,) = torch.autograd.grad(attention(x)[0, :, 0, 0].sum(), (x,))
        assert (grad[0, :, 2, 3].abs().max().item() == 0) == blind


def test_it_starts_as_the_identity_also_as_its_authors_start_it():
    x = torch.randn(2, 16, 5, 3)
    assert torch.equal(make("crisscross", 16)(x), x)
    assert params(make("crisscross", 16, init="identity")) == params(make("crisscross", 16))


def test_gamma_has_the_gradient_that_it_has_outside_the_convolution():
    attention = make("crisscross", 16).double()
    x = torch.randn(2, 16, 5, 3, dtype=torch.float64)
    wanted = torch.randn_like(x)
    (attention(x) * wanted).sum().backward()
    at_zero = attention.gamma.grad.item()
    with torch.no_grad():
        attention.gamma += 1
        found = attention(x) - x
    assert math.isclose(at_zero, (found * wanted).sum().item(), rel_tol=1e-10)


def test_the_keys_bias_changes_nothing():
    attention, x = stir(make("crisscross", 16).double()), torch.randn(2, 16, 5, 3).double()
    before = attention(x)
    torch.nn.init.normal_(attention.key.bias)
    torch.testing.assert_close(attention(x), before, rtol=0, atol=1e-12)
    torch.nn.init.normal_(attention.query.bias)
    assert not torch.allclose(attention(x), before)


def test_large_half_precision_values_do_not_overflow_in_the_scores():
    attention, x = make("crisscross", 64), 300 * torch.randn(1, 64, 5, 3)
    torch.nn.init.constant_(attention.gamma, 0.5)
    expected = attention(x)
    y = attention.half()(x.half())
    assert y.isfinite().all()
    torch.testing.assert_close(y.float(), expected, rtol=0.05, atol=20)


@pytest.mark.parametrize(("channels", "count"), [(64, 5_201), (512, 328_321)])
def test_parameters_of_one_site(channels, count):
    m = channels // 8
    assert count == 2 * (channels * m + m) + channels**2 + channels + 1
    assert lookup("crisscross").params(channels) == count


def test_too_few_channels_are_refused():
    with pytest.raises(MechanismError, match="reduction=8 leaves no hidden channel out of 7"):
        make("crisscross", 7)
