"""What a value is multiplied by is found from outside, or nothing is said."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from attnsurgeon.looking.following import Following
from attnsurgeon.looking.watching import factors_of


def followed(function, *values):
    """What `function` multiplies each of its inputs by; None if that is not known."""
    with Following(values) as following:
        made = function(*values)
    found = factors_of(following, values, made)
    if found is None:
        return None
    whole = torch.ones(SHAPE).double()
    return [None if f is None else math.prod(f, start=whole) for f in found]


SHAPE = (2, 6, 5, 7)
X = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1)).double()
X[0, 0, 0, 0] = 0  # where a quotient would say nothing
C = torch.rand(2, 6, 1, 1, generator=torch.Generator().manual_seed(2)).double()
S = torch.rand(2, 1, 5, 7, generator=torch.Generator().manual_seed(3)).double()
B = torch.rand(SHAPE, generator=torch.Generator().manual_seed(4)).double()


class Half(nn.Module):
    def forward(self, x):
        return x / 2


class _Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, gate):
        return x * gate

    @staticmethod
    def backward(ctx, grad):
        return grad, None


FACTORS = {
    "a product": (lambda x: x * C, C),
    "from the other side": (lambda x: C * x, C),
    "a function": (lambda x: torch.mul(x, S), S),
    "two products": (lambda x: x * C * S, C * S),
    "an expanded gate": (lambda x: x * C.expand_as(x), C),
    "a gate of two axes": (lambda x: x * C.squeeze()[:, :, None, None], C),
    "in place": (lambda x: x.clone().mul_(C), C),
    "in place by a sign": (lambda x: _imul(x.clone(), C), C),
    "a number": (lambda x: 3 * x, torch.tensor(3.0)),
    "a quotient": (lambda x: x / (1 + C), 1 / (1 + C)),
    "a residual": (lambda x: x + x * C, 1 + C),
    "a difference": (lambda x: x - x * C, 1 - C),
    "a negative": (lambda x: -(x * C), -C),
    "addcmul": (lambda x: torch.addcmul(x, x, C), 1 + C),
    "addcmul with a scale": (lambda x: torch.addcmul(x, C, x, value=0.5), 1 + 0.5 * C),
    "lerp": (lambda x: torch.lerp(x, x * C, 0.25), 1 + 0.25 * (C - 1)),
    "lerp by a tensor": (lambda x: torch.lerp(x * S, x * C, B), S + B * (C - S)),
    "flattened": (
        lambda x: (x.flatten(2) * C.flatten(2)).unflatten(2, (5, 7)),
        C,
    ),
    "grouped": (lambda x: (x.view(2, 3, 2, 5, 7) * B.view(2, 3, 2, 5, 7)).reshape(SHAPE), B),
    "channels last": (lambda x: (x.permute(0, 2, 3, 1) * C.permute(0, 2, 3, 1)).movedim(-1, 1), C),
    "transposed": (lambda x: (x.transpose(1, 2) * B.transpose(1, 2)).transpose(1, 2), B),
    "a module": (lambda x: Half()(nn.Identity()(x)), torch.tensor(0.5)),
    "a function of autograd's": (lambda x: _Scaled.apply(x, C), C),
    "nothing": (lambda x: x, torch.tensor(1.0)),
    "a copy": (lambda x: x.clone().contiguous(), torch.tensor(1.0)),
}


def _imul(x, gate):
    x *= gate
    return x


@pytest.mark.parametrize("name", FACTORS)
def test_a_value_is_followed_through(name):
    function, expected = FACTORS[name]
    found = followed(function, X.clone())
    assert found is not None
    (factor,) = found
    torch.testing.assert_close(factor.double(), expected.double().expand(SHAPE))


UNKNOWN = {
    "a bend": lambda x: (x * C).relu(),
    "a sum with something else": lambda x: x * C + 1,
    "a square": lambda x: x * x,
    "its own gate twice": lambda x: x * C * x,
    "one over it": lambda x: 1 / (x + 3),
    "a mix of channels": lambda x: torch.einsum("nchw,cd->ndhw", x, torch.ones(6, 6).double()),
    "a part": lambda x: x[:, :3] * C[:, :3],
    "halves in place": lambda x: _half_in_place(x),
    "another size": lambda x: F.interpolate(x, scale_factor=2) * 2,
    "something else": lambda x: C.expand(SHAPE),
    "a broadcast value": lambda x: x[:1] * B,
    "other numbers of the same bits": lambda x: x.view(torch.int64),
    "rounded": lambda x: torch.div(x, 0.3, rounding_mode="floor"),
    "other axes": lambda x: (x * C).flip(3),
    "a maximum": lambda x: torch.maximum(x * C, x * S),
}


def _half_in_place(x):
    y = x.clone()
    y[:, :3].mul_(C[:, :3])
    return y


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_is_no_product_is_not_called_one(name):
    assert followed(UNKNOWN[name], X.clone()) is None


def test_two_values_are_told_apart():
    y = X.flip(0)
    one, other = followed(lambda x, y: x * C + y * (2 - C), X.clone(), y.clone())
    torch.testing.assert_close(one, C.expand(SHAPE))
    torch.testing.assert_close(other, (2 - C).expand(SHAPE))
    one, other = followed(lambda x, y: torch.lerp(y, x, C), X.clone(), y.clone())
    torch.testing.assert_close(one, C.expand(SHAPE))
    torch.testing.assert_close(other, (1 - C).expand(SHAPE))
    one, other = followed(lambda x, y: x * C, X.clone(), y.clone())
    torch.testing.assert_close(one, C.expand(SHAPE))
    assert other is None
    assert followed(lambda x, y: x * y, X.clone(), y.clone()) is None


def test_a_value_of_one_memory_with_another_is_still_itself():
    """What is freed while the module runs must not lend its identity to another tensor."""

    def function(x):
        for _ in range(50):
            x = x * 1.0 + (x * 0)
        return (x * C).relu() * 0 + torch.zeros_like(x) + torch.rand(SHAPE).double()

    assert followed(function, X.clone()) is None
