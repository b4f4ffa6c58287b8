"""S2 against its equations by plain loops, with the shifts worked out by hand."""

import math
from itertools import product

import pytest
import torch

from attnsurgeon.attention.gates.s2 import shift, shifted
from attnsurgeon.attention.registry import lookup
from attnsurgeon.errors import MechanismError
from tests.attention.cases import make, stir


def test_a_shift_moves_every_place_once_and_keeps_the_one_that_is_left():
    z, into = torch.tensor([1.0, 2.0, 3.0, 4.0])[None, None, None], torch.empty(1, 1, 1, 4)
    for axis, forward, expected in [
        (3, True, [1, 1, 2, 3]),
        (3, False, [2, 3, 4, 4]),
        (2, True, [1, 2, 3, 4]),
    ]:
        shift(z, into, axis, forward=forward)
        assert into.flatten().tolist() == expected


@pytest.mark.parametrize(
    "size", [pytest.param((2, 3), marks=pytest.mark.slow), (1, 2), (1, 1), (2, 1, 2)]
)
def test_the_gradient_of_the_shifts_is_theirs(size):
    channels = 2 * len(size) + 1
    width = (len(size) + 1) * channels
    x = torch.randn(1, *size, width, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(shifted, (x, channels), fast_mode=True)
    assert torch.autograd.gradgradcheck(shifted, (x, channels), fast_mode=True)


def test_quarters_go_down_up_right_left_and_then_right_left_down_up():
    x = torch.arange(12 * 6.0).reshape(1, 12, 2, 3)  # three copies of four channels
    y = shifted(x.movedim(1, -1), 4).movedim(-1, 1)

    def rows(c):
        return x[0, c].tolist()

    down = lambda m: [m[0], m[0]]  # noqa: E731 -- pictures of what a shift does
    up = lambda m: [m[1], m[1]]  # noqa: E731
    right = lambda m: [[r[0], r[0], r[1]] for r in m]  # noqa: E731
    left = lambda m: [[r[1], r[2], r[2]] for r in m]  # noqa: E731
    stay = lambda m: m  # noqa: E731
    moves = [down, up, right, left, right, left, down, up, *[stay] * 4]
    assert [m(rows(c)) for c, m in enumerate(moves)] == y[0].tolist()


def moved(size, place, turn, group, rank):
    """Returns where the value at `place` comes from in a copy and one of its groups."""
    if turn == rank:
        return place
    axis = (turn + group // 2) % rank
    at = list(place)
    at[axis] += -1 if group % 2 == 0 else 1
    at[axis] = min(max(at[axis], 0), size[axis] - 1)
    return tuple(at)


def gelu(z):
    return z * (1 + math.erf(z / math.sqrt(2))) / 2


@pytest.mark.parametrize(("channels", "size"), [(8, (4, 3)), (7, (2, 5)), (12, (2, 4, 3))])
def test_shifted_copies_are_joined_by_their_shares(channels, size):
    rank, s2 = len(size), stir(make("s2", channels, rank=len(size)).double())
    copies = rank + 1
    x = torch.randn(channels, *size, dtype=torch.float64)
    with torch.no_grad():
        weight, bias = s2.expand.weight, s2.expand.bias
        z = torch.empty(copies, channels, *size, dtype=torch.float64)
        sizes = [channels // (2 * rank) + (g < channels % (2 * rank)) for g in range(2 * rank)]
        groups = [g for g, n in enumerate(sizes) for _ in range(n)]
        for k, c, place in product(
            range(copies), range(channels), product(*(range(n) for n in size))
        ):
            at = moved(size, place, k, groups[c], rank)
            z[(k, c, *place)] = (
                weight[k * channels + c] @ x[(slice(None), *at)] + bias[k * channels + c]
            )
        total = torch.stack([z[:, c].sum() for c in range(channels)])
        hidden = torch.stack([total @ row for row in s2.squeeze.weight])
        hidden = torch.tensor([gelu(h) for h in hidden.tolist()], dtype=torch.float64)
        logits = torch.stack([hidden @ row for row in s2.share.weight]).reshape(copies, channels)
        shares = logits.exp() / logits.exp().sum(0)
        mixed = (shares[(..., *[None] * rank)] * z).sum(0)
        expected = torch.stack(
            [
                sum(w * m for w, m in zip(row, mixed, strict=True)) + b
                for row, b in zip(s2.project.weight, s2.project.bias, strict=True)
            ]
        )
    torch.testing.assert_close(s2(x[None])[0], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("channels", "rank", "count"), [(64, 2, 33_024), (64, 3, 41_280)])
def test_parameters_of_one_site(channels, rank, count):
    assert count == {2: 8, 3: 10}[rank] * channels**2 + {2: 4, 3: 5}[rank] * channels
    assert lookup("s2").params(channels, rank=rank) == count


@pytest.mark.parametrize(("channels", "rank"), [(3, 2), (5, 3)])
def test_every_direction_needs_a_channel(channels, rank):
    with pytest.raises(MechanismError, match=f"{channels} channels are not enough"):
        make("s2", channels, rank=rank)
    assert make("s2", channels + 1, rank=rank)
