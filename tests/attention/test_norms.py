"""BatchNorm against torch's own, and on the single values where torch's own raises."""

import copy
import itertools
import math
from typing import Any

import pytest
import torch
from torch import nn

from attnsurgeon.attention.norms import BatchNorm

SHAPES = {"flat": (5, 3), "1d": (2, 3, 7), "2d": (2, 3, 7, 5), "3d": (2, 3, 2, 7, 5)}
TORCH = {"flat": nn.BatchNorm1d, "1d": nn.BatchNorm1d, "2d": nn.BatchNorm2d, "3d": nn.BatchNorm3d}


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("train", [True, False])
def test_it_equals_torchs_own(kind, train):
    ours, theirs = BatchNorm(3, momentum=0.01).train(train), TORCH[kind](3, momentum=0.01)
    theirs.train(train)
    for _ in range(3):
        x = 2 * torch.randn(SHAPES[kind]) + 1
        assert torch.equal(ours(x), theirs(x))
    for name, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], value), name


def written_out(x, norm):
    """Returns the batch norm of `x` by its equation."""
    axes, shape = [0, *range(2, x.dim())], [1, -1] + [1] * (x.dim() - 2)
    mean, var = norm.running_mean.view(shape), norm.running_var.view(shape)
    if norm.training:
        mean = x.mean(axes, keepdim=True)
        var = (x - mean).square().mean(axes, keepdim=True)
    y = (x - mean) / (var + norm.eps).sqrt()
    return y * norm.weight.view(shape) + norm.bias.view(shape)


@pytest.mark.parametrize(
    "shape",
    [(1, 3, 2, 1), (1, 3, 2, 4), (2, 3, 1, 4), (1, 3, 2, 4, 1), (2, 3, 2, 4), (4, 3, 2, 2, 3)],
)
@pytest.mark.parametrize("train", [True, False])
def test_its_gradient_does_not_depend_on_how_that_of_its_output_lies_in_memory(shape, train):
    """Of four axes and more torch's own does, where one image leaves a choice of strides."""
    norm: Any = BatchNorm(3).double().train(train)
    norm.running_var.mul_(2)
    nn.init.normal_(norm.weight)
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    wanted = [x, *norm.parameters()]
    cotangent = torch.randn_like(x)
    expected = torch.autograd.grad(written_out(x, norm), wanted, cotangent)
    for order in itertools.permutations(range(x.dim())):
        inside = {axis: order[place + 1 :] for place, axis in enumerate(order)}
        strides = [math.prod(shape[i] for i in inside[axis]) for axis in range(x.dim())]
        given = torch.empty_strided(shape, strides, dtype=x.dtype).copy_(cotangent)
        found = torch.autograd.grad(norm(x), wanted, given)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-9, msg=str(order))


class _Unneeded(torch.autograd.Function):
    """A function of two values that says of the first that it has no gradient there."""

    @staticmethod
    def forward(ctx, x, y):
        return y.clone()

    @staticmethod
    def backward(ctx, *grads):
        return None, grads[0]


def test_an_output_without_a_gradient_is_no_fault():
    norm: Any = BatchNorm(3)
    x = torch.randn(2, 3, 1, 4, requires_grad=True)
    y = torch.randn(4, requires_grad=True)
    found = torch.autograd.grad(_Unneeded.apply(norm(x), y).sum(), [x, y], allow_unused=True)
    assert found[0] is None or not found[0].any()
    torch.testing.assert_close(found[1], torch.ones(4))


@pytest.mark.parametrize("shape", [(1, 3), (1, 3, 1), (1, 3, 1, 1), (1, 3, 1, 1, 1)])
def test_one_value_a_channel_is_normalised_by_the_running_statistics(shape):
    norm: Any = BatchNorm(3).double().train()
    norm.running_mean.copy_(torch.tensor([1.0, -2.0, 0.5]))
    norm.running_var.copy_(torch.tensor([4.0, 0.25, 1.0]))
    nn.init.constant_(norm.weight, 3.0)
    nn.init.constant_(norm.bias, -1.0)
    before = copy.deepcopy(norm.state_dict())

    y = norm(torch.tensor([5.0, -1.0, 0.5], dtype=torch.float64).reshape(shape)).flatten()

    expected = [3 * 4 / (4 + 1e-5) ** 0.5 - 1, 3 * 1 / (0.25 + 1e-5) ** 0.5 - 1, -1.0]
    torch.testing.assert_close(y, y.new_tensor(expected), rtol=0, atol=1e-12)
    for name, value in norm.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_torchs_own_raises_there():
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        nn.BatchNorm1d(3).train()(torch.zeros(1, 3))


def test_two_values_a_channel_are_normalised_by_themselves():
    x = torch.tensor([[1.0, 5.0], [3.0, 1.0]], dtype=torch.float64)
    y = BatchNorm(2, eps=1e-15).double().train()(x)
    expected = x.new_tensor([[-1.0, 1.0], [1.0, -1.0]])
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-12)


def test_it_is_found_by_the_conversion_to_synchronised_norms():
    converted: Any = nn.SyncBatchNorm.convert_sync_batchnorm(nn.Sequential(BatchNorm(3)))
    assert isinstance(converted[0], nn.SyncBatchNorm)
