"""Maxima and their gradients against torch's own, with ties worked out by hand."""

import pytest
import torch
from torch.nn import functional as F

from attnsurgeon.attention.maxima import Largest, WindowMax, halved_max, largest, window_max


def both(function, reference, x):
    """Returns value and gradient of the two, for a cotangent that tells the places apart."""
    results = []
    for f in (function, reference):
        y = f(x)
        weights = torch.linspace(1, 2, y.numel(), dtype=y.dtype).reshape(y.shape)
        results.append((y, *torch.autograd.grad((y * weights).sum(), (x,))))
    return results


@pytest.mark.parametrize("axes", [(1,), (2,), (3,), (2, 3)])
def test_the_largest_and_its_gradient_are_those_of_amax(axes):
    x = torch.randn(2, 5, 7, 3, dtype=torch.float64, requires_grad=True)
    ours, theirs = both(lambda x: largest(x, axes), lambda x: x.amax(axes, keepdim=True), x)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_equal_maxima_share_the_gradient_evenly():
    x = torch.tensor([[3.0, 1.0, 3.0, 3.0, 2.0]], requires_grad=True)
    (grad,) = torch.autograd.grad(6 * largest(x, (1,)).sum(), (x,))
    assert grad.tolist() == [[2, 0, 2, 2, 0]]


POOL = {2: F.max_pool2d, 3: F.max_pool3d}


@pytest.mark.parametrize("size", [(7, 5), (1, 5), (2, 1), (1, 1), (4, 3, 5), (1, 2, 1)])
def test_the_window_is_a_3x3_pooling_of_stride_1(size):
    x = torch.randn(2, 3, *size, dtype=torch.float64, requires_grad=True)
    pool = POOL[len(size)]
    ours, theirs = both(WindowMax(rank=len(size)), lambda x: pool(x, 3, 1, 1), x)
    torch.testing.assert_close(ours[0], theirs[0], rtol=0, atol=0)
    torch.testing.assert_close(ours[1], theirs[1], rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "size", [(7, 5), (8, 6), (1, 5), (2, 1), (1, 1), (4, 3, 5), (1, 2, 1), (5, 2, 4)]
)
def test_the_halved_map_is_a_3x3_pooling_of_stride_2(size):
    x = torch.randn(2, 3, *size, dtype=torch.float64, requires_grad=True)
    pool = POOL[len(size)]
    ours, theirs = both(halved_max, lambda x: pool(x, 3, 2, 1), x)
    torch.testing.assert_close(ours[0], theirs[0], rtol=0, atol=0)
    torch.testing.assert_close(ours[1], theirs[1], rtol=0, atol=1e-12)


def test_equal_values_of_a_halved_map_give_each_gradient_to_one_of_them():
    x = torch.tensor([1.0, 1.0, 0.0, 2.0, 2.0, 2.0, 0.0], requires_grad=True).reshape(1, 1, 1, 7)
    y = halved_max(x)
    assert y.flatten().tolist() == [1, 2, 2, 2]
    weights = torch.tensor([1.0, 2.0, 4.0, 8.0])
    (grad,) = torch.autograd.grad((y.flatten() * weights).sum(), (x,))
    # The middle of a window takes what is its own, else the one before it, else the one behind.
    assert grad.flatten().tolist() == [1, 0, 0, 2, 4, 8, 0]


def test_any_strides_will_do():
    x = torch.randn(2, 3, 7, 10, dtype=torch.float64)
    for view in (x.to(memory_format=torch.channels_last), x.transpose(1, 3), x[..., ::2]):
        for function in (Largest(), WindowMax(), halved_max):
            ours, theirs = both(
                function, lambda x, f=function: f(x.contiguous()), view.detach().requires_grad_()
            )
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


def test_of_equal_neighbours_each_place_takes_itself_first_then_the_one_before():
    x = torch.tensor([1.0, 1.0, 0.0, 1.0, 1.0, 0.0], requires_grad=True).reshape(1, 1, 1, 6)
    y = window_max(x, (3,))
    assert y.flatten().tolist() == [1] * 6
    weights = torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0, 32.0])
    (grad,) = torch.autograd.grad((y.flatten() * weights).sum(), (x,))
    # place 2 takes from place 1, not 3; place 5 from place 4
    assert grad.flatten().tolist() == [1, 6, 0, 8, 48, 0]


def test_a_constant_map_keeps_the_whole_gradient():
    x = torch.full((1, 2, 5, 3), 2.0, requires_grad=True)
    grad = torch.autograd.grad(window_max(x, (2, 3)).sum(), (x,))[0]
    assert torch.equal(grad, torch.ones_like(x))


def test_the_largest_is_differentiable_twice():
    x = torch.randn(1, 2, 4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: Largest()(x).square(), (x,))


def test_the_window_says_that_it_is_differentiable_once():
    x = torch.randn(1, 2, 4, 3, requires_grad=True)
    (grad,) = torch.autograd.grad(window_max(x, (2, 3)).square().sum(), (x,), create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        grad.sum().backward()
