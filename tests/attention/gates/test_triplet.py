"""Triplet against its equations by plain loops, its identity, and published totals."""

import math
from itertools import product

import pytest
import torch

from attnsurgeon.attention.gates.triplet import kernels
from attnsurgeon.attention.registry import lookup
from attnsurgeon.errors import MechanismError
from tests.attention.cases import make, params, stir
from tests.attention.gates.sites import RESNET50, RESNET50_BRANCHES


def sigmoid(z):
    return 1 / (1 + math.exp(-z))


def places(shape):
    return product(*(range(n) for n in shape))


def gates_of(conv, norm, image):
    """Returns the gate at each place of (L, ...) but the first axis, by loops; eval mode."""
    _, *rest = image.shape
    top, center, gates = (image.new_empty(rest) for _ in range(3))
    for place in places(rest):
        values = image[(slice(None), *place)].tolist()
        top[place], center[place] = max(values), sum(values) / len(values)
    kernel = conv.weight[0].detach()
    for place in places(rest):
        total = 0.0
        for plane, taps in zip((top, center), kernel, strict=True):
            for offset in places(taps.shape):
                at = tuple(
                    p + o - k // 2 for p, o, k in zip(place, offset, taps.shape, strict=True)
                )
                if all(0 <= a < n for a, n in zip(at, rest, strict=True)):
                    total += taps[offset].item() * plane[at].item()
        total = (total - norm.running_mean.item()) / math.sqrt(norm.running_var.item() + 1e-5)
        gates[place] = sigmoid(total * norm.weight.item() + norm.bias.item())
    return gates


@pytest.mark.parametrize(
    ("size", "k"), [((5, 3), 3), pytest.param((4, 5, 3), 5, marks=pytest.mark.slow)]
)
def test_each_gate_is_blind_to_one_axis_and_their_mean_counts(size, k):
    triplet = stir(make("triplet", 4, rank=len(size), kernel_size=k).double()).eval()
    image = torch.randn(4, *size, dtype=torch.float64)
    total = torch.zeros_like(image)
    for axis, (conv, norm) in enumerate(zip(triplet.convs, triplet.norms, strict=True)):
        # the axis pooled changes places with the channels
        total += gates_of(conv, norm, image.transpose(0, axis)).unsqueeze(0).transpose(0, axis)
    expected = image * total / image.dim()
    torch.testing.assert_close(triplet(image[None])[0], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [(5, 3), (4, 5, 3)])
def test_the_gate_of_positions_alone_can_be_left_out(size):
    triplet = stir(make("triplet", 4, rank=len(size), kernel_size=3, spatial=False).double()).eval()
    assert params(triplet) == lookup("triplet").params(
        4, rank=len(size), kernel_size=3, spatial=False
    )
    image = torch.randn(4, *size, dtype=torch.float64)
    total = torch.zeros_like(image)
    for axis, (conv, norm) in enumerate(zip(triplet.convs, triplet.norms, strict=True), start=1):
        total += gates_of(conv, norm, image.transpose(0, axis)).unsqueeze(0).transpose(0, axis)
    torch.testing.assert_close(
        triplet(image[None])[0], image * total / len(size), rtol=0, atol=1e-12
    )


def test_a_gate_sees_no_order_along_the_axis_that_it_pools():
    triplet = stir(make("triplet", 6).double()).eval()
    x = torch.randn(1, 6, 5, 3, dtype=torch.float64)
    for axis, others in ((1, (1, 2)), (2, (0, 2)), (3, (0, 1))):
        only = stir(make("triplet", 6).double()).eval()
        only.load_state_dict(triplet.state_dict())
        for other in others:  # a constant gate
            torch.nn.init.zeros_(only.norms[other].weight)
        for blind in (1, 2, 3):
            order = torch.randperm(x.shape[blind]).roll(1)
            moved = x.index_select(blind, order)
            alike = torch.allclose(only(moved), only(x).index_select(blind, order))
            assert alike == (blind == axis)


def test_the_kernels_of_clips_have_three_places_along_the_depth():
    assert kernels(7, 2) == [(7, 7)] * 3
    assert kernels(7, 3) == [(3, 7, 7), (7, 7, 7), (3, 7, 7), (3, 7, 7)]
    assert kernels(1, 3) == [(1, 1, 1)] * 4


@pytest.mark.parametrize(
    ("rank", "k", "count"), [(2, 7, 300), (2, 3, 60), (3, 7, 3 * 296 + 688), (3, 3, 4 * 56)]
)
def test_parameters_of_one_site(rank, k, count):
    assert lookup("triplet").params(64, rank=rank, kernel_size=k) == count
    assert params(make("triplet", 64, rank=rank, kernel_size=k)) == count


def test_total_of_a_resnet50():
    assert RESNET50 + sum(lookup("triplet").params(c) for c in RESNET50_BRANCHES) == 25_561_832


def test_an_even_kernel_is_refused():
    with pytest.raises(MechanismError, match="kernel_size=4 has no centre"):
        make("triplet", 64, kernel_size=4)
