"""TSE against the paper's listing by plain loops, and against SE, whose weights it takes."""

import math

import pytest
import torch

from attnsurgeon.attention.registry import lookup
from attnsurgeon.errors import MechanismError
from tests.attention.cases import make, stir
from tests.attention.gates.sites import RESNET50, RESNET50_BRANCHES


def gates(module, means):
    """Returns the gates that two layers make of a list of means."""
    hidden = []
    for j, bias in enumerate(module.fc1.bias.tolist()):
        total = sum(w * m for w, m in zip(module.fc1.weight[j].tolist(), means, strict=True))
        hidden.append(max(total + bias, 0))
    result = []
    for c, bias in enumerate(module.fc2.bias.tolist()):
        total = sum(w * h for w, h in zip(module.fc2.weight[c].tolist(), hidden, strict=True))
        result.append(1 / (1 + math.exp(-total - bias)))
    return result


@pytest.mark.parametrize("size", [(5, 6), (1, 1), (3, 2)])
@pytest.mark.parametrize("tile", [(2, None), (None, 4), (3, 4), (7, 7), (None, None), (4,)])
def test_each_tile_is_gated_by_its_own_means(size, tile):
    tse = stir(make("tse", 11, reduction=3, tile=tile).double())
    x = torch.randn(2, 11, *size, dtype=torch.float64)
    height, width = (t or n for t, n in zip((None, *tile)[-2:], size, strict=True))
    expected = torch.empty_like(x)
    for n in range(2):
        for top in range(0, size[0], height):
            for left in range(0, size[1], width):
                here = x[n, :, top : top + height, left : left + width]
                means = [channel.sum().item() / channel.numel() for channel in here]
                for c, gate in enumerate(gates(tse, means)):
                    expected[n, c, top : top + height, left : left + width] = here[c] * gate
    torch.testing.assert_close(tse(x), expected, rtol=0, atol=1e-12)


def test_a_tile_of_a_clip_covers_the_depth_unless_it_has_three_sides():
    x = torch.randn(2, 16, 4, 6, 5, dtype=torch.float64)
    flat, deep, cut = (make("tse", 16, tile=t, rank=r).double() for t, r in (
        ((8, None), 2), ((2, None), 3), ((2, 2, None), 3)))  # fmt: skip
    for module in (deep, cut):
        module.load_state_dict(flat.state_dict())
    unrolled = x.movedim(2, 3).flatten(2, 3)  # rows of all frames side by side: 2 rows are 8
    torch.testing.assert_close(deep(x), flat(unrolled).unflatten(2, (6, 4)).movedim(3, 2))
    halves = torch.cat([deep(half) for half in x.split(2, dim=2)], dim=2)
    torch.testing.assert_close(cut(x), halves)
    assert not torch.allclose(cut(x), deep(x))


@pytest.mark.parametrize("args", [{}, {"bias": False}, {"hidden": 9}, {"reduction": 4}])
def test_the_weights_of_se_load_and_mean_the_same_where_one_tile_is_the_map(args):
    se = stir(make("se", 32, **args))
    tse = make("tse", 32, **args)
    assert tse.load_state_dict(se.state_dict(), strict=True)
    x = torch.randn(2, 32, 7, 5)
    torch.testing.assert_close(tse(x), se(x))
    tall = torch.randn(2, 32, 8, 5)
    assert not torch.allclose(tse(tall), se(tall))


@pytest.mark.parametrize("args", [{}, {"bias": False}, {"hidden": 9}, {"reduction": 4}])
def test_it_has_the_parameters_of_se(args):
    assert lookup("tse").params(64, **args) == lookup("se").params(64, **args)


def test_total_of_a_resnet50():
    assert RESNET50 + sum(lookup("tse").params(c) for c in RESNET50_BRANCHES) == 28_088_024


def test_a_tile_with_more_sides_than_the_map_has_axes_is_refused():
    with pytest.raises(MechanismError, match=r"tile=\(7, 7, 7\) has 3 sides and the map 2 axes"):
        make("tse", 64, tile=(7, 7, 7))
    with pytest.raises(MechanismError, match="tile=0 is not a list"):
        make("tse", 64, tile=0)
