"""Kernels that each image mixes: how they start, and how many there have to be."""

import pytest
import torch
from torch import nn

from attnsurgeon.attention.registry import create_attention
from attnsurgeon.attention.weights.experts import mixed
from attnsurgeon.errors import MechanismError


@pytest.mark.parametrize("name", ["odconv", "dyconv", "condconv"])
def test_from_the_identity_all_kernels_and_what_chooses_among_them_learn(name):
    conv = nn.Conv2d(8, 6, 3, bias=False)
    made = create_attention(name, conv=conv, init="identity").double()
    x, target = torch.randn(4, 8, 5, 4).double(), torch.randn(4, 6, 3, 2).double()
    assert torch.equal(made(x), made.conv(x))
    before = {n: p.detach().clone() for n, p in made.named_parameters()}
    descent = torch.optim.SGD(made.parameters(), lr=0.1)
    for _ in range(2):
        descent.zero_grad()
        (made(x) - target).square().mean().backward()
        descent.step()
    assert all(not torch.equal(p, before[n]) for n, p in made.named_parameters())
    others = made.excitation.experts.kernels
    assert not torch.allclose(others[0], others[1])


@pytest.mark.parametrize("name", ["odconv", "dyconv", "condconv"])
def test_a_network_of_images_goes_to_channels_last(name):
    # torch asks it of every parameter with four axes or five, and of five it has none
    made = create_attention(name, conv=nn.Conv2d(8, 6, 3)).double().eval()
    x = torch.randn(2, 8, 5, 4).double()
    before = made(x)
    after = made.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last))
    torch.testing.assert_close(after, before)


@pytest.mark.parametrize("name", ["dyconv", "condconv"])
def test_a_single_kernel_is_refused(name):
    with pytest.raises(MechanismError, match="kernels=1 leaves nothing to mix"):
        create_attention(name, conv=nn.Conv2d(8, 8, 3), kernels=1)


def drawn(*shape):
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def test_the_mixture_is_a_sum_by_shares_with_gradients_of_both_orders():
    weight, others, shares = drawn(3, 2, 2), drawn(2, 3, 2, 2), drawn(2, 3)
    kernels = [weight, *others]
    for n, made in enumerate(mixed(weight, others, shares)):
        expected = sum(a * w for a, w in zip(shares[n].tolist(), kernels, strict=True))
        torch.testing.assert_close(made, expected)
    assert torch.autograd.gradcheck(mixed, (weight, others, shares))
    assert torch.autograd.gradgradcheck(mixed, (weight, others, shares))


def test_the_mixture_keeps_nothing_of_the_size_of_a_kernel_an_image():
    kept = []
    weight, others, shares = drawn(3, 2, 2), drawn(1, 3, 2, 2), drawn(5, 2)
    with torch.autograd.graph.saved_tensors_hooks(kept.append, lambda kept: kept):
        mixed(weight, others, shares)
    assert sorted(tuple(t.shape) for t in kept) == [(1, 3, 2, 2), (3, 2, 2), (5, 2)]
