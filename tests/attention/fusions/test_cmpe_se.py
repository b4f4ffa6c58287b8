"""CMPE-SE against the equations of its four squeezes by plain loops, and their counts."""

import math

import pytest
import torch

from attnsurgeon.attention.registry import lookup
from attnsurgeon.errors import MechanismError
from tests.attention.cases import make, params, stir
from tests.attention.gates.sites import RESNET50, RESNET50_BRANCHES
from tests.attention.loops import linear, means, relu

SQUEEZES = ("double-fc", "pair-2x1", "pair-1x1", "folded-3x3")


def rows_of(branch, shortcut, squeeze):
    """Returns the image of two lists of means, row by row."""
    if squeeze != "folded-3x3":
        return [list(pair) for pair in zip(branch, shortcut, strict=True)]
    rows = []
    for start in range(0, len(branch), 16):
        rows += [branch[start : start + 16], shortcut[start : start + 16]]
    return rows


def convolved(module, rows):
    """Returns the mean over maps of the norm of the convolution of an image, as a list."""
    kernels, norm = module.conv.weight.squeeze(1).tolist(), module.norm
    tall, wide = len(kernels[0]), len(kernels[0][0])
    found = []
    for i in range(len(rows) - tall + 1):
        for j in range(len(rows[0]) - wide + 1):
            maps = []
            for k, kernel in enumerate(kernels):
                total = sum(
                    kernel[a][b] * rows[i + a][j + b] for a in range(tall) for b in range(wide)
                )
                scale = norm.weight[k].item() / (norm.running_var[k].item() + norm.eps) ** 0.5
                maps.append((total - norm.running_mean[k].item()) * scale + norm.bias[k].item())
            found.append(sum(maps) / len(maps))
    return found


@pytest.mark.parametrize("squeeze", SQUEEZES)
def test_the_branch_is_gated_by_what_both_means_say(squeeze):
    cmpe = stir(make("cmpe-se", 48, squeeze=squeeze, reduction=12, maps=3).double().eval())
    branch, shortcut = torch.randn(2, 2, 48, 5, 3, dtype=torch.float64).unbind()
    for n, y in enumerate(cmpe(branch, shortcut)):
        a, b = means(branch[n]), means(shortcut[n])
        if squeeze == "double-fc":
            z = linear(cmpe.squeeze.branch, a) + linear(cmpe.squeeze.shortcut, b)
        else:
            z = linear(cmpe.squeeze.fc1, convolved(cmpe.squeeze, rows_of(a, b, squeeze)))
        gates = [1 / (1 + math.exp(-logit)) for logit in linear(cmpe.fc2, relu(z))]
        expected = torch.stack([v * g for v, g in zip(branch[n], gates, strict=True)])
        torch.testing.assert_close(y, expected + shortcut[n], rtol=0, atol=1e-12)


def test_the_folded_image_has_the_rows_of_both_in_turn():
    cmpe = make("cmpe-se", 32, squeeze="folded-3x3")
    values = torch.arange(64.0).reshape(2, 1, 32)
    image = cmpe.squeeze.image(*values).squeeze()
    assert image.tolist() == rows_of(*values.squeeze(1).tolist(), "folded-3x3")
    assert image[:, 0].tolist() == [0, 32, 16, 48]


COUNTS = [("double-fc", 16_384), ("pair-2x1", 8_208), ("pair-1x1", 12_300), ("folded-3x3", 10_860)]


@pytest.mark.parametrize(("squeeze", "expected"), COUNTS)
def test_parameters_of_one_bottleneck_of_the_authors(squeeze, expected):
    assert lookup("cmpe-se").params(256, squeeze=squeeze) == expected
    assert params(make("cmpe-se", 256, squeeze=squeeze)) == expected


@pytest.mark.parametrize("squeeze", SQUEEZES[1:])
def test_the_authors_basic_blocks_have_a_sixteenth_of_the_channels_as_maps(squeeze):
    few, many = (make("cmpe-se", 64, squeeze=squeeze, maps=maps) for maps in (None, 4))
    assert (few.squeeze.norm.num_features, many.squeeze.norm.num_features) == (1, 4)
    added = params(many) - params(few)
    assert added == 3 * (few.squeeze.conv.weight.numel() + 2)
    card = lookup("cmpe-se")
    assert card.params(64, squeeze=squeeze, maps=4) - card.params(64, squeeze=squeeze) == added


def test_total_of_a_resnet50():
    added = sum(lookup("cmpe-se").params(c) for c in RESNET50_BRANCHES)
    assert added == sum(c * c for c in RESNET50_BRANCHES) // 4
    assert RESNET50 + added == 30_586_920


def test_the_means_of_a_volume_are_those_of_the_image_it_unrolls_to():
    flat, deep = (make("cmpe-se", 32, rank=rank) for rank in (2, 3))
    deep.load_state_dict(flat.state_dict())
    branch, shortcut = torch.randn(2, 2, 32, 3, 7, 5).unbind()
    y = flat(branch.flatten(2, 3), shortcut.flatten(2, 3)).reshape(branch.shape)
    torch.testing.assert_close(deep(branch, shortcut), y)


@pytest.mark.parametrize("channels", [16, 24, 40])
def test_an_image_that_does_not_fold_is_refused_with_a_squeeze_that_works(channels):
    with pytest.raises(MechanismError, match="use squeeze='pair-2x1'"):
        make("cmpe-se", channels, squeeze="folded-3x3")
    make("cmpe-se", channels, squeeze="pair-2x1")
    make("cmpe-se", 32, squeeze="folded-3x3")


def test_a_squeeze_that_does_not_exist_is_refused():
    with pytest.raises(MechanismError, match="is not one of 'double-fc', 'pair-2x1'"):
        make("cmpe-se", 32, squeeze="double")
