"""Attention that sees distances: its gradients of both orders, and what it keeps for them."""

import pytest
import torch

from attnsurgeon.attention.convs.relative import attention


def drawn(*shape):
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def given(queries, keys, d=2):
    """Returns queries, keys and a relation of each axis, for two images."""
    relations = [drawn(a, i, d) for a, i in zip(queries, keys, strict=True)]
    return drawn(2, *queries, d), drawn(2, *keys, d), *relations


@pytest.mark.parametrize(
    ("queries", "keys"),
    [
        ((3,), (3,)),
        ((2, 1), (1, 3)),
        *(
            pytest.param(*shapes, marks=pytest.mark.slow)
            for shapes in [((2, 3), (2, 3)), ((2, 1), (4, 3)), ((2, 1, 2), (1, 3, 2))]
        ),
    ],
)
def test_its_gradients_are_those_of_the_differences(queries, keys):
    values = given(queries, keys)

    def weights(q, k, *relations):
        return attention(q, k, relations)

    assert torch.autograd.gradcheck(weights, values, fast_mode=True)
    assert torch.autograd.gradgradcheck(weights, values, fast_mode=True)


def test_of_all_pairs_it_keeps_the_weights_alone():
    kept = []
    q, k, *relations = given((4, 5), (4, 5))
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        made = attention(q, k, relations)
    assert [t.numel() for t in kept if t.numel() >= made.numel()] == [made.numel()]
    assert sum(t.numel() for t in kept) <= made.numel() + sum(t.numel() for t in (q, k, *relations))
