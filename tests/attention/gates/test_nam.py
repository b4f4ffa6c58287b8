"""NAM against its equations by plain loops, its gradient, its spatial branch, and totals."""

import math

import pytest
import torch
from torch import nn

from attnsurgeon.attention.registry import lookup
from attnsurgeon.errors import MechanismError
from tests.attention.cases import gradients, make, params, stir
from tests.attention.gates.sites import RESNET50, RESNET50_BRANCHES


def gated(norm, rows):
    """Returns rows of values gated by their norm, each row by one weight of it, in eval mode."""
    total = sum(abs(g) for g in norm.weight.tolist())
    result = []
    for i, row in enumerate(rows):
        gamma, beta = norm.weight[i].item(), norm.bias[i].item()
        scale = gamma / math.sqrt(norm.running_var[i].item() + 1e-5)
        z = [(v - norm.running_mean[i].item()) * scale + beta for v in row]
        share = abs(gamma) / total
        result.append([v / (1 + math.exp(-share * s)) for v, s in zip(row, z, strict=True)])
    return result


@pytest.mark.parametrize("size", [(5, 3), (2, 5, 3), (1, 1)])
def test_each_channel_counts_by_the_size_of_its_weight(size):
    nam = stir(make("nam", 7, rank=len(size)).double().eval())
    nn.init.normal_(nam.norm.weight)
    x = torch.randn(2, 7, *size, dtype=torch.float64)
    expected = [gated(nam.norm, image.flatten(1).tolist()) for image in x]
    torch.testing.assert_close(nam(x), x.new_tensor(expected).reshape(x.shape), rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [(5, 3), (2, 5, 3)])
def test_the_spatial_branch_does_the_same_with_positions(size):
    nam = stir(make("nam", 7, rank=len(size), spatial=True, size=size).double().eval())
    x = torch.randn(2, 7, *size, dtype=torch.float64)
    expected = torch.empty_like(x)
    for n in range(2):
        rows = x.new_tensor(gated(nam.norm, x[n].flatten(1).tolist()))
        columns = x.new_tensor(gated(nam.positions.norm, rows.T.tolist()))
        expected[n] = columns.T.reshape(x[n].shape)
    torch.testing.assert_close(nam(x), expected, rtol=0, atol=1e-12)


def test_statistics_are_taken_over_images_and_positions_while_training():
    nam, twin = make("nam", 7).train(), nn.BatchNorm2d(7).train()
    x = 2 + torch.randn(3, 7, 5, 3)
    torch.testing.assert_close(nam(x), x * (twin(x) / 7).sigmoid())
    torch.testing.assert_close(nam.norm.running_mean, twin.running_mean)
    torch.testing.assert_close(nam.norm.running_var, twin.running_var)
    assert nam.norm.num_batches_tracked == 1


def test_the_share_of_a_channel_has_no_gradient():
    nam = stir(make("nam", 3).double().eval())
    x = torch.randn(1, 3, 2, 2, dtype=torch.float64)
    share = (nam.norm.weight / nam.norm.weight.sum()).detach()
    (ours,) = torch.autograd.grad(nam(x).sum(), nam.norm.weight)
    still = (x * (share[:, None, None] * nam.norm(x)).sigmoid()).sum()
    torch.testing.assert_close(
        ours, *torch.autograd.grad(still, nam.norm.weight), rtol=0, atol=1e-12
    )
    live = nam.norm.weight / nam.norm.weight.sum()
    moving = (x * (live[:, None, None] * nam.norm(x)).sigmoid()).sum()
    assert not torch.allclose(ours, *torch.autograd.grad(moving, nam.norm.weight), atol=1e-4)


@pytest.mark.parametrize("init", ["paper", "identity"])
def test_weights_that_are_zero_throughout_are_finite(init):
    nam = make("nam", 7, init=init)
    norm = nam.norm if init == "paper" else nam.inner.norm
    nn.init.zeros_(norm.weight)
    x = torch.randn(2, 7, 5, 3)
    y, grads = gradients(nam, x)
    torch.testing.assert_close(y, x / 2 if init == "paper" else x)
    assert all(g.isfinite().all() for g in grads)


@pytest.mark.parametrize("train", [False, True])
def test_the_spatial_branch_starts_as_the_identity_and_learns(train):
    nam = make("nam", 8, spatial=True, size=(5, 3), init="identity").train(train)
    x = torch.randn(2, 8, 5, 3)
    assert torch.equal(nam(x), x)
    nn.init.ones_(nam.g)
    _, grads = gradients(nam, x)
    assert all(g.abs().sum() > 0 for g in grads)


@pytest.mark.parametrize("batch", [1, 2])
def test_the_spatial_branch_of_one_channel_and_image_is_finite_while_training(batch):
    nam = make("nam", 1, spatial=True, size=(5, 3)).train()
    assert nam(torch.randn(batch, 1, 5, 3)).isfinite().all()


@pytest.mark.parametrize("seen", [(10, 9), (7, 3), (1, 1), (3, 5)])
def test_the_spatial_branch_gates_a_map_of_another_size_by_a_pooled_one(seen):
    nam = stir(make("nam", 7, spatial=True, size=(5, 3)).double().eval()).positions
    x = torch.randn(2, 7, *seen, dtype=torch.float64)
    pooled = nn.functional.adaptive_avg_pool2d(x, (5, 3))
    gate = nam(pooled) / pooled
    rows = [5 * row // seen[0] for row in range(seen[0])]
    columns = [3 * column // seen[1] for column in range(seen[1])]
    expected = x * gate[:, :, rows][..., columns]
    torch.testing.assert_close(nam(x), expected, rtol=0, atol=1e-12)


def test_the_spatial_branch_needs_a_size_of_the_right_rank():
    with pytest.raises(MechanismError, match="size is missing"):
        make("nam", 7, spatial=True)
    with pytest.raises(MechanismError, match=r"size=\(2, 5, 3\) is no map of rank 2"):
        make("nam", 7, spatial=True, size=(2, 5, 3))


def test_a_plan_tells_the_size_only_to_the_spatial_branch():
    card = lookup("nam")
    assert card.args_at((14, 10), {}) == {}
    assert card.args_at((14, 10), {"spatial": True}) == {"spatial": True, "size": (14, 10)}


def test_parameters():
    assert lookup("nam").params(64) == 128
    with_positions = lookup("nam").params(64, spatial=True, size=(14, 10))
    assert with_positions == 128 + 280 == params(make("nam", 64, spatial=True, size=(14, 10)))
    assert RESNET50 + sum(lookup("nam").params(c) for c in RESNET50_BRANCHES) == 25_587_240


def test_conversion_to_synchronised_norms_keeps_the_function_in_eval():
    nam = stir(make("nam", 7).eval())
    x = torch.randn(2, 7, 5, 3)
    expected = nam(x)
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(nam).eval()
    assert isinstance(converted.get_submodule("norm"), nn.SyncBatchNorm)
    torch.testing.assert_close(converted(x), expected)
