"""CBAM against its equations by plain loops, its start, and published totals."""

import math

import pytest
import torch

from attnsurgeon.attention.registry import lookup
from attnsurgeon.cost.weighing import weigh
from tests.attention.cases import make, params, stir
from tests.attention.gates.sites import RESNET50, RESNET50_BRANCHES


def sigmoid(z):
    return 1 / (1 + math.exp(-z))


def channel_gates(cbam, image):
    """Returns one gate a channel for an image (C, H, W), by loops."""
    gates = [0.0] * len(image)
    for pool in (lambda z: sum(z) / len(z), max):
        pooled = [pool(z.flatten().tolist()) for z in image]
        hidden = [
            max(0.0, sum(w * p for w, p in zip(row.tolist(), pooled, strict=True)) + b.item())
            for row, b in zip(cbam.fc1.weight, cbam.fc1.bias, strict=True)
        ]
        for c, (row, b) in enumerate(zip(cbam.fc2.weight, cbam.fc2.bias, strict=True)):
            gates[c] += sum(w * h for w, h in zip(row.tolist(), hidden, strict=True)) + b.item()
    return [sigmoid(z) for z in gates]


def position_gates(cbam, image, k):
    """Returns the gate of each position of (C, H, W), by loops; eval mode."""
    _, height, width = image.shape
    planes = [image.max(0).values.tolist(), (image.sum(0) / len(image)).tolist()]
    kernel, gates = cbam.conv.weight[0].tolist(), torch.empty(height, width, dtype=image.dtype)
    for h in range(height):
        for w in range(width):
            total = 0.0
            for plane, taps in zip(planes, kernel, strict=True):
                for i in range(k):
                    for j in range(k):
                        a, b = h + i - k // 2, w + j - k // 2
                        if 0 <= a < height and 0 <= b < width:
                            total += taps[i][j] * plane[a][b]
            norm = cbam.norm
            total = (total - norm.running_mean.item()) / (norm.running_var.item() + 1e-5) ** 0.5
            gates[h, w] = sigmoid(total * norm.weight.item() + norm.bias.item())
    return gates


def test_channels_then_positions_are_gated():
    cbam = stir(make("cbam", 13, reduction=4, kernel_size=3).double().eval())
    x = torch.randn(2, 13, 5, 3, dtype=torch.float64)
    expected = torch.empty_like(x)
    for n in range(2):
        gated = x[n] * x.new_tensor(channel_gates(cbam, x[n]))[:, None, None]
        expected[n] = gated * position_gates(cbam, gated, 3)
    torch.testing.assert_close(cbam(x), expected, rtol=0, atol=1e-12)


def test_the_gate_of_positions_can_be_left_out():
    cbam = stir(make("cbam", 13, reduction=4, spatial=False).double().eval())
    assert params(cbam) == lookup("cbam").params(13, reduction=4, spatial=False) == 2 * 39 + 3 + 13
    x = torch.randn(1, 13, 5, 3, dtype=torch.float64)
    expected = x * x.new_tensor(channel_gates(cbam, x[0]))[:, None, None]
    torch.testing.assert_close(cbam(x), expected, rtol=0, atol=1e-12)


def test_the_paper_start_halves_positions_and_has_no_biases():
    cbam = make("cbam", 64).eval()
    x = torch.randn(2, 64, 7, 5)
    gates = x.new_tensor([channel_gates(cbam, image) for image in x])
    torch.testing.assert_close(cbam(x), x * gates[:, :, None, None] / 2)
    assert not cbam.fc1.bias.any()
    assert not cbam.fc2.bias.any()
    assert cbam.conv.weight.any()


@pytest.mark.parametrize(("channels", "count"), [(64, 680), (256, 8_564)])
def test_parameters_of_one_site(channels, count):
    assert lookup("cbam").params(channels) == count


def test_total_of_a_resnet50():
    assert RESNET50 + sum(lookup("cbam").params(c) for c in RESNET50_BRANCHES) == 28_089_624


@pytest.mark.parametrize(("k", "kernel"), [(7, (3, 7, 7)), (3, (3, 3, 3)), (1, (1, 1, 1))])
def test_a_clip_has_a_kernel_of_three_frames(k, kernel):
    cbam = make("cbam", 64, rank=3, kernel_size=k)
    assert cbam.conv.kernel_size == kernel
    assert cbam.conv.weight.numel() == 2 * math.prod(kernel)
    assert lookup("cbam").params(64, rank=3, kernel_size=k) == params(cbam)


def test_the_defaults_are_the_authors():
    args = {"reduction": 16, "kernel_size": 7, "spatial": True, "bias": True, "pool": "both"}
    assert dict(lookup("cbam").args) == args
    assert make("cbam", 64).norm.momentum == 0.01


@pytest.mark.parametrize("size", [(11,), (5, 3), (2, 5, 3)])
def test_with_mixed_pooling_each_gate_has_one_descriptor(size):
    rank = len(size)
    cbam = stir(make("cbam", 13, rank=rank, reduction=4, kernel_size=1, pool="mixed"))
    cbam = cbam.double().eval()
    x = torch.randn(2, 13, *size, dtype=torch.float64)
    expected, norm = torch.empty_like(x), cbam.norm
    spread = (norm.running_var + 1e-5) ** 0.5
    for n in range(2):
        values = [z.flatten().tolist() for z in x[n]]
        descriptor = x.new_tensor([(sum(z) / len(z) + max(z)) / 2 for z in values])
        hidden = (cbam.fc1.weight @ descriptor + cbam.fc1.bias).clamp(min=0)
        gates = [sigmoid(z) for z in (cbam.fc2.weight @ hidden + cbam.fc2.bias).tolist()]
        for at in torch.cartesian_prod(*map(torch.arange, size)).reshape(-1, rank).tolist():
            gated = [x[(n, c, *at)].item() * gate for c, gate in enumerate(gates)]
            plane = (sum(gated) / 13 + max(gated)) / 2
            z = (cbam.conv.weight.item() * plane - norm.running_mean) / spread
            gate = sigmoid((z * norm.weight + norm.bias).item())
            expected[(n, slice(None), *at)] = gate * x.new_tensor(gated)
    torch.testing.assert_close(cbam(x), expected, rtol=0, atol=1e-12)


def test_one_descriptor_costs_half_of_the_taps_and_half_of_the_hidden_layer():
    made = {pool: make("cbam", 64, pool=pool) for pool in ("both", "mixed")}
    assert params(made["both"]) - params(made["mixed"]) == 49
    macs = {
        pool: weigh(gate, (torch.empty(1, 64, 8, 8),)).layer_macs for pool, gate in made.items()
    }
    assert macs["both"] - macs["mixed"] == 49 * 64 + 2 * 64 * 4
