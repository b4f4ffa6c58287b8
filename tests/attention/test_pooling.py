"""Means, maxima and variances by plain loops, and their gradients by hand."""

import pytest
import torch

from attnsurgeon.attention.pooling import Max, Mean, Mixed, Moments

SIZES = {2: (5, 3), 3: (2, 5, 3)}


@pytest.mark.parametrize("rank", [2, 3])
def test_mean_and_unbiased_variance_of_each_channel(rank):
    x = 3 + torch.randn(2, 7, *SIZES[rank], dtype=torch.float64)
    mean, var = Moments(rank=rank)(x)
    for n in range(2):
        for c in range(7):
            values = x[n, c].flatten().tolist()
            center = sum(values) / len(values)
            spread = sum((v - center) ** 2 for v in values) / (len(values) - 1)
            torch.testing.assert_close(mean[n, c], x.new_tensor(center), rtol=0, atol=1e-12)
            torch.testing.assert_close(var[n, c], x.new_tensor(spread), rtol=0, atol=1e-12)
    torch.testing.assert_close(Mean(rank=rank)(x), mean, rtol=0, atol=1e-12)


def test_one_value_has_itself_as_mean_and_no_variance():
    x = torch.randn(2, 7, 1, 1, requires_grad=True)
    mean, var = Moments()(x)
    assert torch.equal(mean, x[:, :, 0, 0])
    assert not var.any()
    (var.sum() + mean.sum()).backward()
    assert x.grad is not None
    assert torch.equal(x.grad, torch.ones_like(x))


def test_the_variance_does_not_suffer_from_a_large_mean():
    x = torch.tensor([1.0, 2.0, 3.0, 4.0]).reshape(1, 1, 2, 2) + 65536
    assert Moments()(x)[1].item() == pytest.approx(5 / 3, rel=1e-6)


def test_gradients_of_the_first_and_second_order():
    x = torch.randn(2, 3, 2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(Moments(), (x,))
    assert torch.autograd.gradgradcheck(Moments(), (x,))


def test_only_the_input_is_kept_for_the_backward():
    kept = set()

    def pack(t):
        kept.add((t.untyped_storage().data_ptr(), t.numel()))
        return t

    x = torch.randn(2, 3, 5, 7, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        Moments()(x)
    assert kept == {(x.untyped_storage().data_ptr(), x.numel())}


def test_half_precision_is_summed_where_it_fits():
    x = torch.full((1, 2, 64, 64), 100.0, dtype=torch.float16)
    assert torch.equal(Mean()(x), torch.full((1, 2), 100.0, dtype=torch.float16))
    mean, var = Moments()(x)
    assert mean.dtype == torch.float32
    assert torch.equal(mean, torch.full((1, 2), 100.0))
    assert not var.any()


def test_other_axes_and_kept_axes():
    x = torch.arange(24.0).reshape(1, 2, 3, 4)
    assert torch.equal(Mean(axes=(3,))(x), x.mean(3))
    assert Mean(axes=(1,), keepdim=True)(x).shape == (1, 1, 3, 4)
    assert torch.equal(Mean(axes=(1,), keepdim=True)(x)[:, 0], (x[:, 0] + x[:, 1]) / 2)


def test_under_vmap():
    x = torch.randn(3, 2, 7, 5, 4)
    mean, var = torch.func.vmap(Moments())(x)
    torch.testing.assert_close(var, x.var((3, 4)))
    torch.testing.assert_close(mean, x.mean((3, 4)))


def test_the_maximum_of_each_channel_and_of_each_position():
    x = torch.randn(2, 3, 5, 7)
    largest, flat = Max()(x), Max(axes=(1,), keepdim=True)(x)
    assert largest.tolist() == [[max(c.flatten().tolist()) for c in image] for image in x]
    assert flat.shape == (2, 1, 5, 7)
    assert flat[1, 0, 4, 2].item() == max(x[1, :, 4, 2].tolist())
    assert torch.equal(Max(rank=3)(x.reshape(2, 3, 5, 7, 1)), largest)


def test_values_that_share_a_maximum_share_its_gradient():
    x = torch.tensor([[[[2.0, 5.0], [5.0, 1.0]], [[0.0, 0.0], [0.0, 0.0]]]], requires_grad=True)
    (Max()(x) * torch.tensor([6.0, 8.0])).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [[[[0.0, 3.0], [3.0, 0.0]], [[2.0, 2.0], [2.0, 2.0]]]]


@pytest.mark.parametrize("axes", [(2, 3), (1,)])
def test_gradients_of_the_maximum(axes):
    x = torch.randn(2, 3, 2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(Max(axes=axes), (x,))
    assert torch.autograd.gradgradcheck(Max(axes=axes), (x,))


def test_the_maximum_under_vmap():
    x = torch.randn(3, 2, 7, 5, 4)
    assert torch.equal(torch.func.vmap(Max())(x), x.amax((3, 4)))


@pytest.mark.parametrize("axes", [(2, 3), (1,)])
def test_the_jacobian_of_the_maximum(axes):
    x, pool = torch.randn(2, 3, 2, 3, dtype=torch.float64), Max(axes=axes)
    one_by_one = torch.autograd.functional.jacobian(pool, x)
    assert torch.equal(torch.func.jacrev(pool)(x), one_by_one)
    assert torch.equal(torch.autograd.functional.jacobian(pool, x, vectorize=True), one_by_one)
    assert one_by_one.sum() == one_by_one.shape[: x.dim() - len(axes)].numel()


def test_mixed_pooling_is_half_of_the_mean_and_half_of_the_maximum():
    x = torch.tensor([1.0, 2.0, 3.0, 6.0]).reshape(1, 1, 2, 2)
    assert Mixed()(x).tolist() == [[4.5]]
    assert Mixed(axes=(2,), keepdim=True)(x).tolist() == [[[[2.5, 5.0]]]]
    assert Mixed(axes=(3,))(x).tolist() == [[[1.75, 5.25]]]
