"""GSoP against its equations by plain loops, its start, and published totals."""

import math

import pytest
import torch

from attnsurgeon.attention.registry import lookup
from tests.attention.cases import make, stir
from tests.attention.gates.sites import RESNET50


def normed(norm, i, value):
    scale = norm.weight[i].item() / math.sqrt(norm.running_var[i].item() + 1e-5)
    return (value - norm.running_mean[i].item()) * scale + norm.bias[i].item()


def dot(weights, values):
    return sum(w * v for w, v in zip(weights.flatten().tolist(), values, strict=True))


def covariances(rows):
    """Returns how every row of numbers varies with every other one."""
    centered = [[v - sum(row) / len(row) for v in row] for row in rows]
    return [
        [sum(a * b for a, b in zip(p, q, strict=True)) / len(p) for q in centered] for p in centered
    ]


@pytest.mark.parametrize("size", [(5, 4), (2, 5, 3), (1, 1)])
@pytest.mark.parametrize("stride", [1, 2])
def test_rows_of_covariances_become_gates(size, stride):
    rank = len(size)
    gsop = stir(make("gsop", 7, rank=rank, hidden=3, stride=stride).double().eval())
    x = torch.randn(2, 7, *size, dtype=torch.float64)
    expected = torch.empty_like(x)
    taken = x[(..., *(slice(None, None, stride),) * rank)]
    for n in range(2):
        pixels = taken[n].flatten(1).T.tolist()  # C values a position
        u = []
        for k, bias in enumerate(gsop.reduce.bias.tolist()):
            z = [dot(gsop.reduce.weight[k], [max(v, 0) for v in pixel]) + bias for pixel in pixels]
            u.append([max(normed(gsop.norm, k, v), 0) for v in z])
        rows = []
        for i, row in enumerate(covariances(u)):
            row = [normed(gsop.row_norm, i, v) for v in row]
            for j in range(4 * i, 4 * i + 4):
                rows.append(dot(gsop.rows.weight[j], row) + gsop.rows.bias[j].item())
        for c, bias in enumerate(gsop.expand.bias.tolist()):
            expected[n, c] = x[n, c] / (1 + math.exp(-dot(gsop.expand.weight[c], rows) - bias))
    torch.testing.assert_close(gsop(x), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("channels", "stride"), [(64, 2), (256, 2), (257, 1), (2048, 1)])
def test_every_second_position_is_taken_up_to_the_width_of_the_authors_first_stage(
    channels, stride
):
    gsop = make("gsop", channels, hidden=3).eval()
    x = torch.randn(1, channels, 6, 4)
    changed = x.clone()
    changed[:, :, 1::2] += 1
    gates = (gsop(x) / x)[0, :, 0, 0], (gsop(changed) / changed)[0, :, 0, 0]
    assert torch.allclose(*gates) == (stride == 2)
    assert not torch.allclose((gsop(x + 1) / (x + 1))[0, :, 0, 0], gates[0])


def test_half_precision_covariances_are_finite():
    gsop = make("gsop", 64).half().eval()
    assert gsop(1000 * torch.randn(2, 64, 7, 5).half()).isfinite().all()


def test_the_start_is_that_of_the_authors_networks():
    gsop = make("gsop", 512)
    for layer, fan_out in ((gsop.reduce, 128), (gsop.rows, 512 * 128), (gsop.expand, 512)):
        assert layer.weight.std().item() == pytest.approx(math.sqrt(2 / fan_out), rel=0.05)


def test_parameters_of_one_site():
    d, c = 128, 256
    assert lookup("gsop").params(c) == (
        c * d + d + 2 * d  # to d channels, and their norm
        + 2 * d + 4 * d * d + 4 * d  # four numbers a row
        + 4 * d * c + c  # the gates
    )  # fmt: skip


def test_total_of_a_resnet50_with_four_sites():
    added = sum(lookup("gsop").params(c) for c in (256, 512, 1024, 2048))
    assert RESNET50 + added == 28_285_224
