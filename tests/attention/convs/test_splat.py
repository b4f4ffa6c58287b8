"""Split attention with groups, by its equation, and against published totals."""

import pytest
import torch
from torch import nn

from attnsurgeon.attention.registry import create_attention, lookup
from attnsurgeon.errors import MechanismError
from tests.attention.cases import params, stir
from tests.attention.convs.sites import RESNET50_WIDTHS, conv3x3

SPLAT = lookup("splat")


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("radix", [2, 3])
def test_splits_are_mixed_by_shares_of_their_means(groups, radix):
    conv = nn.Conv2d(12, 8, 3, 2, 1, groups=groups, bias=False)
    splat = stir(create_attention("splat", conv=conv, radix=radix).double().eval())
    x = torch.randn(2, 12, 7, 5, dtype=torch.float64)
    splits = torch.relu(splat.norm(splat.conv(x))).chunk(radix, dim=1)
    pooled = sum(splits).mean((2, 3))
    hidden = torch.relu(splat.norm1(splat.fc1(pooled[:, :, None])))
    z = splat.fc2(hidden)[:, :, 0]
    expected = 0
    for j, split in enumerate(splits):  # a group's outputs lie together, its splits in it
        own = torch.cat([part.chunk(radix, dim=1)[j] for part in z.chunk(groups, dim=1)], dim=1)
        total = sum(
            torch.cat([p.chunk(radix, dim=1)[i] for p in z.chunk(groups, dim=1)], dim=1).exp()
            for i in range(radix)
        )
        expected = expected + split * (own.exp() / total)[:, :, None, None]
    torch.testing.assert_close(splat(x), expected)


@pytest.mark.parametrize("groups", [1, 2])
def test_a_single_split_has_a_gate_instead_of_shares(groups):
    """As in the authors' networks of the names 1s1x64d and 1s2x40d."""
    conv = nn.Conv2d(12, 8, 3, 2, 1, groups=groups, bias=False)
    splat = stir(create_attention("splat", conv=conv, radix=1).double().eval())
    assert params(splat) == SPLAT.params(conv, radix=1)
    x = torch.randn(2, 12, 7, 5, dtype=torch.float64)
    u = torch.relu(splat.norm(splat.conv(x)))
    hidden = torch.relu(splat.norm1(splat.fc1(u.mean((2, 3))[:, :, None])))
    gate = 1 / (1 + (-splat.fc2(hidden)).exp())
    torch.testing.assert_close(splat(x), u * gate[..., None])


def test_what_it_adds_to_a_resnet50():
    convs = [conv3x3(width) for width in RESNET50_WIDTHS]
    added = sum(SPLAT.params(c) - params(c) for c in convs)
    expected = 0
    for c in RESNET50_WIDTHS:
        m = max(c // 2, 32)
        expected += 4 * c + c * m + 3 * m + 2 * m * c + 2 * c
    assert added == expected


@pytest.mark.parametrize(
    ("conv", "args", "what"),
    [
        (nn.Conv2d(6, 8, 3, groups=2), {}, "groups=4 do not divide 6 channels"),
        (nn.Conv2d(8, 8, 3, groups=8), {}, "groups=16 do not divide 8 channels"),
        (nn.Conv2d(8, 8, 3), {"radix": 0}, "radix=0 is not a whole number"),
    ],
)
def test_what_does_not_divide_is_refused(conv, args, what):
    with pytest.raises(MechanismError, match=what) as caught:
        create_attention("splat", conv=conv, **args)
    assert caught.value.hint
