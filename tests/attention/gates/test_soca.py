"""SOCA against its equation with the full matrices, and where the authors' code is undefined."""

import pytest
import torch

from attnsurgeon.attention.gates.soca import root_of_covariance
from attnsurgeon.attention.registry import lookup
from tests.attention.cases import gradients, make, stir


def covariance(image):
    """Returns cov of (C, M) over positions, entry by entry."""
    channels, n = image.shape
    center = [sum(row.tolist()) / n for row in image]
    return image.new_tensor(
        [
            [
                sum(
                    (a - center[i]) * (b - center[j])
                    for a, b in zip(image[i].tolist(), image[j].tolist(), strict=True)
                )
                / n
                for j in range(channels)
            ]
            for i in range(channels)
        ]
    )


def newton_schulz(matrix, iterations):
    """Returns the approximate root by the coupled iteration that the paper writes down."""
    trace, eye = matrix.trace(), torch.eye(len(matrix), dtype=matrix.dtype)
    y, z = matrix / trace, eye
    for _ in range(iterations):
        t = (3 * eye - z @ y) / 2
        y, z = y @ t, t @ z
    return y * trace.sqrt()


# More channels than positions, and fewer: two ways to the same values.
@pytest.mark.parametrize("size", [(3, 2), (2, 1), (5, 3), (2, 3, 5)])
@pytest.mark.parametrize("iterations", [1, 2, 5])
def test_gates_come_from_the_rows_of_the_root_of_the_covariance(size, iterations):
    soca = make("soca", 7, rank=len(size), reduction=3, iterations=iterations)
    stir(soca.double())
    x = 1 + torch.randn(2, 7, *size, dtype=torch.float64)
    expected = torch.empty_like(x)
    for n in range(2):
        root = newton_schulz(covariance(x[n].flatten(1)), iterations)
        means = root.sum(0) / 7
        hidden = (soca.fc1.weight @ means + soca.fc1.bias).clamp(min=0)
        gate = torch.sigmoid(soca.fc2.weight @ hidden + soca.fc2.bias)
        expected[n] = x[n] * gate.reshape(7, *(1 for _ in size))
    torch.testing.assert_close(soca(x), expected, rtol=0, atol=1e-11)


def test_many_iterations_reach_the_root():
    x = torch.randn(1, 4, 9, 5, dtype=torch.float64)
    values, vectors = torch.linalg.eigh(covariance(x[0].flatten(1)))
    root = vectors * values.sqrt() @ vectors.T
    torch.testing.assert_close(root_of_covariance(x, 20)[0], root.mean(0), rtol=0, atol=1e-10)
    assert not torch.allclose(root_of_covariance(x, 2)[0], root.mean(0), rtol=0, atol=1e-4)


@pytest.mark.parametrize("size", [(3, 2), (5, 3)])
def test_gradients_are_those_through_the_full_matrices(size):
    def plain(x):
        d = x.flatten(2) - x.flatten(2).mean(2, keepdim=True)
        rows = [newton_schulz(z @ z.T / d.shape[2], 5).mean(0) for z in d]
        return torch.stack(rows)

    plain.parameters = list
    x = torch.randn(2, 7, *size, dtype=torch.float64)

    def ours(x):
        return root_of_covariance(x, 5)

    ours.parameters = list
    torch.testing.assert_close(gradients(ours, x), gradients(plain, x), rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("size", [(5, 3), (1, 1)])
def test_maps_without_variation_have_the_gate_of_no_covariance(size):
    soca = stir(make("soca", 16))
    x = torch.full((2, 16, *size), -2.0)
    gate = torch.sigmoid(soca.fc2(soca.fc1.bias.relu()))
    torch.testing.assert_close(soca(x), x * gate[:, None, None])
    _, grads = gradients(soca, x)
    assert all(g.isfinite().all() for g in grads)


def test_half_precision_values_whose_squares_overflow_are_gated_well():
    soca, x = make("soca", 16), 1000 * torch.randn(2, 16, 7, 3)
    y = soca.half()(x.half())
    torch.testing.assert_close(y.float(), soca.float()(x), rtol=0.02, atol=1)


def test_autocast_does_not_reach_the_iterations():
    x = torch.randn(2, 16, 7, 3)
    with torch.autocast("cpu", torch.bfloat16):
        inside = root_of_covariance(x, 5)
    assert torch.equal(inside, root_of_covariance(x, 5))


@pytest.mark.slow
@pytest.mark.parametrize("size", [(3, 2), (5, 7)])
def test_an_export_serves_maps_with_more_and_with_fewer_positions_than_channels(size):
    soca, free = make("soca", 16).eval(), dict.fromkeys((0, 2, 3), torch.export.Dim.DYNAMIC)
    x = torch.randn(2, 16, *size)
    exported = torch.export.export(soca, (x,), dynamic_shapes=(free,)).module()
    for other in ((2, 3), (4, 4), (9, 5)):
        x = torch.randn(3, 16, *other)
        torch.testing.assert_close(exported(x), soca(x))


@pytest.mark.parametrize(("channels", "count"), [(64, 1_096), (256, 16_672)])
def test_parameters_of_one_site(channels, count):
    m = channels // 8
    assert count == 2 * channels * m + m + channels
    assert lookup("soca").params(channels) == count
