"""The attention gate of a U-Net's skips against plain loops over positions, in both its forms."""

from itertools import product

import pytest
import torch
from torch.nn import functional as F

from attnsurgeon.attention.registry import create_part, lookup
from tests.attention.cases import make, stir

double = {"rtol": 0, "atol": 1e-12}
MODES = {1: "linear", 2: "bilinear", 3: "trilinear"}


def values(channels, signal_channels, size, signal_size):
    x = torch.randn(2, channels, *size, dtype=torch.float64)
    return x, torch.randn(2, signal_channels, *signal_size, dtype=torch.float64)


def normed(norm, z):
    """Returns what a batch norm in eval mode makes of one vector of channels."""
    return (z - norm.running_mean) / (norm.running_var + norm.eps).sqrt() * norm.weight + norm.bias


def one_by_one(conv, z):
    return conv.weight.flatten(1) @ z + conv.bias


@pytest.mark.parametrize(
    ("rank", "size", "signal_size"),
    [
        (1, (8,), (4,)),
        (1, (11,), (6,)),  # an odd side, of which the last position is in no window
        (2, (6, 8), (3, 4)),
        (2, (7, 5), (2, 5)),
        (3, (4, 6, 5), (2, 3, 2)),
    ],
)
@pytest.mark.parametrize("transform", [True, False])
def test_the_coarser_signal_gates_windows_of_the_skip(rank, size, signal_size, transform):
    args = {"signal_channels": 3, "reduction": 2, "transform": transform}
    gate = stir(make("attention-gate", 4, rank=rank, **args).double().eval()).requires_grad_(False)
    x, g = values(4, 3, size, signal_size)
    cells = tuple(side // 2 for side in size)
    # What the signal says, brought to the windows, corners not aligned.
    phi = torch.stack(
        [one_by_one(gate.phi, g.movedim(1, -1)[at]) for at in positions(2, signal_size)]
    ).reshape(2, *signal_size, -1)
    phi = F.interpolate(phi.movedim(-1, 1), size=cells, mode=MODES[rank], align_corners=False)
    opened = torch.zeros(2, 1, *cells, dtype=torch.float64)
    for n, *cell in positions(2, cells):
        z = phi[(n, slice(None), *cell)].clone()
        for offset in product(range(2), repeat=rank):
            there = tuple(2 * c + o for c, o in zip(cell, offset, strict=True))
            z += (
                gate.theta.weight[(slice(None), slice(None), *offset)] @ x[(n, slice(None), *there)]
            )
        score = gate.score.weight.flatten() @ z.relu() + gate.score.bias
        opened[(n, 0, *cell)] = score.sigmoid()
    opened = F.interpolate(opened, size=size, mode=MODES[rank], align_corners=False)
    expected = x * opened
    if transform:
        conv, norm = gate.transform
        for n, *at in positions(2, size):
            here = (n, slice(None), *at)
            expected[here] = normed(norm, one_by_one(conv, expected[here]))
    torch.testing.assert_close(gate(x, g), expected, **double)


@pytest.mark.parametrize(("rank", "size"), [(1, (7,)), (2, (3, 5)), (3, (2, 3, 2))])
def test_the_raised_signal_gates_each_position_by_itself(rank, size):
    gate = stir(make("attention-gate", 6, rank=rank, signal="raised", signal_channels=5))
    gate = gate.double().eval().requires_grad_(False)
    x, g = values(6, 5, size, size)
    expected = torch.zeros_like(x)
    for n, *at in positions(2, size):
        here = (n, slice(None), *at)
        theta = normed(gate.theta[1], one_by_one(gate.theta[0], x[here]))
        phi = normed(gate.phi[1], one_by_one(gate.phi[0], g[here]))
        score = normed(gate.score[1], one_by_one(gate.score[0], (theta + phi).relu()))
        expected[here] = x[here] / (1 + torch.exp(-score))
    torch.testing.assert_close(gate(x, g), expected, **double)


def positions(batch, size):
    return list(product(range(batch), *map(range, size)))


@pytest.mark.parametrize(
    ("args", "total"),
    [
        # theta 2x2 (64 to 32), phi 128 to 32 with biases, w and its bias, W with biases and norm
        ({"signal_channels": 128}, 4 * 64 * 32 + 128 * 32 + 32 + 33 + 64 * 64 + 64 + 128),
        ({"signal_channels": 128, "transform": False}, 4 * 64 * 32 + 128 * 32 + 32 + 33),
        ({"reduction": 1, "stride": 4, "transform": False}, 16 * 64**2 + 64**2 + 64 + 65),
        ({"stride": (2, 1), "transform": False}, 2 * 64 * 32 + 64 * 32 + 32 + 33),
        # both to 32 with biases and norms, one score with bias and norm
        ({"signal": "raised", "signal_channels": 48}, (64 + 48) * 32 + 2 * 32 + 4 * 32 + 33 + 2),
    ],
)
def test_parameters_are_those_of_the_layers_by_hand(args, total):
    gate = make("attention-gate", 64, **args)
    assert sum(p.numel() for p in gate.parameters()) == total
    assert lookup("attention-gate").params(64, **args) == total


def test_the_authors_ct_network_has_these_gates_at_rank_3():
    """Their unet_CT_single_att_dsv_3D: C to C channels, without the 1x1x1 layers around."""
    card = lookup("attention-gate")
    for c in (32, 64, 128):
        total = 8 * c * c + (2 * c * c + c) + (c + 1) + (c * c + c + 2 * c)
        assert card.params(c, rank=3, reduction=1, signal_channels=2 * c) == total


def test_the_gates_of_leejunhyuns_network_are_a_third_of_a_million():
    """Theirs of 512, 256, 128 and 64 channels: 34,878,573 in the network less 34,527,041."""
    card = lookup("attention-gate")
    assert sum(card.params(c, signal="raised") for c in (512, 256, 128, 64)) == 34878573 - 34527041


def test_where_it_opens_and_closes_follows_the_signal():
    """A signal far on one side of zero opens the gate where it stands, and nowhere else."""
    gate = make("attention-gate", 2, reduction=1, transform=False).double().eval()
    with torch.no_grad():
        for layer in (gate.theta, gate.phi, gate.score):
            for parameter in layer.parameters():
                parameter.zero_()
        gate.phi.weight.fill_(1.0)
        gate.score.weight.fill_(1.0)
        gate.score.bias.fill_(-20.0)
    x, g = torch.ones(1, 2, 8, 8).double(), torch.zeros(1, 2, 4, 4).double()
    g[..., 0, 0] = 20.0
    y = gate(x, g)
    assert y[0, 0, 0, 0] > 0.99
    assert y[0, 0, 4:, 4:].max() < 1e-6


@pytest.mark.parametrize("signal", ["coarser", "raised"])
@pytest.mark.parametrize("stride", [2, 3])
def test_each_form_starts_as_the_identity_and_learns(signal, stride):
    args = {"signal": signal, "stride": stride}
    part = create_part("attention-gate", 8, rank=2, init="identity", **args)
    x, g = torch.randn(2, 8, 9, 7), torch.randn(2, 8, 9, 7)
    assert torch.equal(part(x, g), x)
    loss = (part(x, g) - torch.randn_like(x)).square().mean()
    loss.backward()
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in part.parameters())


def test_a_signal_of_several_values_a_window_is_brought_to_it():
    gate = make("attention-gate", 4, stride=2).eval()
    x = torch.randn(1, 4, 8, 8)
    assert gate(x, torch.randn(1, 4, 8, 8)).shape == gate(x, torch.randn(1, 4, 1, 1)).shape
