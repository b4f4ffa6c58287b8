"""BAM against its equations by plain loops, its start, and published totals."""

import math

import pytest
import torch

from attnsurgeon.attention.registry import lookup
from tests.attention.cases import make, params, stir
from tests.attention.gates.sites import RESNET50, RESNET50_STAGES


def normalised(norm, z):
    """Returns the batch norm of channel values (C, ...) in eval mode, by its definition."""
    out = torch.empty_like(z)
    for c in range(len(z)):
        scale = norm.weight[c].item() / (norm.running_var[c].item() + 1e-5) ** 0.5
        out[c] = (z[c] - norm.running_mean[c].item()) * scale + norm.bias[c].item()
    return out


def convolved(conv, z, dilation):
    """Returns the convolution of (C, H, W) padded to its own size, by loops."""
    _, height, width = z.shape
    k = conv.weight.shape[-1]
    out = torch.empty(len(conv.weight), height, width, dtype=z.dtype)
    for o in range(len(conv.weight)):
        for h in range(height):
            for w in range(width):
                total = conv.bias[o].item()
                for i in range(k):
                    for j in range(k):
                        a, b = h + (i - k // 2) * dilation, w + (j - k // 2) * dilation
                        if 0 <= a < height and 0 <= b < width:
                            total += (conv.weight[o, :, i, j] * z[:, a, b]).sum().item()
                out[o, h, w] = total
    return out


def test_the_two_maps_are_multiplied_into_one_gate():
    bam = stir(make("bam", 7, reduction=2, dilation=2).double().eval())
    x = torch.randn(2, 7, 5, 3, dtype=torch.float64)
    expected = torch.empty_like(x)
    for n in range(2):
        means = x[n].flatten(1).sum(1) / 15
        hidden = normalised(bam.norm, bam.fc1.weight @ means + bam.fc1.bias).clamp(min=0)
        by_channel = (bam.fc2.weight @ hidden + bam.fc2.bias).tolist()
        z = normalised(bam.reduce[1], convolved(bam.reduce[0], x[n], 1)).clamp(min=0)
        z = normalised(bam.dilate[1], convolved(bam.dilate[0], z, 2)).clamp(min=0)
        z = normalised(bam.dilate[4], convolved(bam.dilate[3], z, 2)).clamp(min=0)
        by_position = convolved(bam.conv, z, 1)[0].tolist()
        for c in range(7):
            for h in range(5):
                for w in range(3):
                    gate = 1 / (1 + math.exp(-by_channel[c] * by_position[h][w]))
                    expected[n, c, h, w] = x[n, c, h, w] * (1 + gate)
    torch.testing.assert_close(bam(x), expected, rtol=0, atol=1e-12)


def test_the_paper_start_has_no_biases():
    bam = make("bam", 64)
    biases = [p for name, p in bam.named_parameters() if name.endswith("bias")]
    assert len(biases) == 10
    assert not any(bias.any() for bias in biases)


def test_a_map_of_zeros_as_gate_gives_one_and_a_half():
    bam = make("bam", 64).eval()
    torch.nn.init.zeros_(bam.conv.weight)
    x = torch.randn(2, 64, 7, 5)
    torch.testing.assert_close(bam(x), 1.5 * x)


@pytest.mark.parametrize(("rank", "count"), [(2, 1_173), (3, 1_173 + 2 * 18 * 4**2)])
def test_parameters_of_one_site(rank, count):
    assert lookup("bam").params(64, rank=rank) == count
    assert params(make("bam", 64, rank=rank)) == count


def test_total_of_a_resnet50():
    assert RESNET50 + sum(lookup("bam").params(c) for c in RESNET50_STAGES) == 25_915_099


def test_the_defaults_are_the_authors():
    assert dict(lookup("bam").args) == {"reduction": 16, "dilation": 4}
